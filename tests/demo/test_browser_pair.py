"""The page in real Chromium with scripted models: side by side, hostile texts, neighbours, several ECGs."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from ecglm.demo.house import House
from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.samples import Samples
from ecglm.demo.talk import ModelName
from ecglm.models.assistant import Assistant, load
from ecglm.prompts.retrieved import RagOptions
from ecglm.store.reader import SegmentStore
from page_world import Parrot, Tab, browser, require_browser

require_browser()

from ecglm.demo.app import open_page  # noqa: E402

#: What a model, a report or a file name may hold; none of it may become anything but these letters.
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    "![pic](http://192.0.2.7/x.png)",
    "[a link](javascript:alert(3))",
    "\u2400<svg/onload=alert(4)>",
    "${alert(5)} {{constructor.constructor('alert(6)')()}} `x`",
    "<style>*{display:none}</style><iframe src=//192.0.2.7></iframe>",
    "</div></article><a href=http://192.0.2.7>out</a>",
    "&lt;b&gt; &amp; **bold** $$x^2$$",
)


class FakeIndex:
    """An index with one neighbour, whose report is hostile."""

    rate, seg_len = 50, 250

    def __init__(self, hit):
        self.hit = hit

    def search(self, segments, rate, *, k, exclude):
        assert (
            segments.dtype == np.float32 and segments.shape[1:] == (12, self.seg_len) and len(exclude) == len(segments)
        )
        return [(self.hit,)]

    def patients_shown(self, segments, rate):
        return frozenset()


@pytest.fixture(scope="module")
def place(signal_run, world, tmp_path_factory):
    home = tmp_path_factory.mktemp("pair")
    assistant = load(signal_run / "best")
    store = SegmentStore(world.store)
    row = store.row(0)
    from ecglm.types import Neighbour

    hit = Neighbour(row["segment_id"], row["record_id"], row["patient_id"], 0.25, " ".join(HOSTILE), ("rhythm:x",))
    told = Assistant(assistant.bundle.with_rag(RagOptions()))  # the other learned without, and is told of none
    left, right = Parrot(told), Parrot(assistant, pause=0.02)
    house = House(
        [ModelName("left <u>model</u>", "l"), ModelName("right", "r")],
        [left, right],
        samples=Samples([store], pipeline=dict(assistant.bundle.pipeline), count=4),
        index=FakeIndex(hit),
        log=PreferenceLog(home / "pair.jsonl"),
        root=home,
    )
    with open_page(house, port=0) as address, browser() as chromium:
        yield SimpleNamespace(address=address, house=house, chromium=chromium, left=left, right=right, row=row)


@pytest.fixture(scope="module")
def context(place):
    return place.chromium.new_context(viewport={"width": 1280, "height": 800})


@pytest.fixture
def tab(place, context):
    place.left.say = place.right.say = None
    place.right.pause = 0.0
    found = Tab(place.chromium, place.address, context)
    yield found
    found.close()


def elements(tab):
    """Everything that a hostile text would have made."""
    return tab.page.evaluate(
        """() => ({ images: [...document.images].map(i => i.getAttribute('src')),
        made: ['talk', 'neighbours'].flatMap(place => ['script', 'svg[onload]', 'iframe', 'style', 'b', 'strong', 'i']
          .flatMap(tag => [...document.querySelectorAll(`#${place} ${tag}`)])).length
          + document.querySelectorAll('#talk a, #talk img, #top u').length,
        on: [...document.querySelectorAll('*')].filter(n => [...n.attributes].some(a => /^on/i.test(a.name)))
          .filter(n => n.closest('#board')).length,
        links: [...document.querySelectorAll('#neighbours a')].map(a => a.getAttribute('href')) })"""
    )


def test_hostile_texts_of_models_reports_users_and_names_are_shown_as_typed(tab, place):
    tab.sample()
    words = "\n".join(HOSTILE)
    place.left.say = words
    tab.ask(words.replace("\n", " "))
    left, right = tab.answered(2)
    for text in HOSTILE:
        assert text in left and text in right
        assert text in tab.page.locator("#talk .eg-user").inner_text()
        assert text in tab.page.locator("#neighbours").inner_text()
    assert "left <u>model</u>" in tab.page.locator("#top").inner_text()
    found = elements(tab)
    assert found["made"] == 0 and found["on"] == 0
    assert all(src.startswith("/ecglm/show/") for src in [*found["images"], *found["links"]])
    tab.drop({"name": "<img src=x onerror=alert(7)>.npy", "mimeType": "x", "buffer": b"\x93NUMPY"})
    assert "<img src=x onerror=alert(7)>.npy" in tab.told("alert(7)")
    time.sleep(0.3)
    assert not [u for u in tab.requests if "192.0.2.7" in u or u.endswith("/x")]
    tab.check()


def test_neighbours_have_pictures_and_reports_and_the_model_is_told_of_them(tab, place):
    tab.sample()
    tab.page.wait_for_function("() => document.querySelector('#neighbours img')?.naturalWidth > 0")
    words = tab.page.locator("#neighbours").inner_text()
    assert "distance 0.25" in words and HOSTILE[0] in words
    assert place.row["record_id"] not in words and place.row["patient_id"] not in words  # no id of anybody
    tab.ask("What is the rhythm?")
    tab.answered(2)
    assert [hit.record_id for hit in place.left.asked[-1].retrieved] == [place.row["record_id"]]
    assert not place.right.asked[-1].retrieved


def test_two_models_are_compared_and_the_choice_is_stored(tab, place):
    page, log = tab.page, place.house.log
    before = len(log.rows())
    tab.sample()
    place.left.say, place.right.say, place.right.pause = "left answer", "right answer, a good deal longer", 0.1
    tab.ask("Which?")
    page.wait_for_function("() => document.querySelectorAll('#talk .eg-pair .eg-model').length == 2")
    assert not page.get_by_role("button", name="Left is better").count()  # not before both are there
    assert tab.answered(2) == ["left answer", "right answer, a good deal longer"]
    for name, expected in (
        ("Right is better", [("compare", "right answer, a good deal longer", "left answer")]),
        ("Both good", [("thumbs", 1), ("thumbs", 1)]),
        ("Neither", [("thumbs", -1), ("thumbs", -1)]),
    ):
        page.get_by_role("button", name=name).click()
        page.wait_for_function(
            "name => [...document.querySelectorAll('.eg-better [aria-pressed=true]')].some(b => b.innerText == name)",
            arg=name,
        )
        rows = log.rows()[before:]
        before += len(rows)
        found = [(r["source"], *((r["thumb"],) if r["thumb"] else (r["chosen"], r["rejected"]))) for r in rows]
        assert found == expected
    assert log.rows()[-3]["model"]["name"] in ("left <u>model</u>", "right")
    boxes = [b.bounding_box() for b in page.locator("#talk .eg-pair .eg-model").all()]
    assert boxes[0]["y"] == pytest.approx(boxes[1]["y"], abs=2) and boxes[0]["x"] < boxes[1]["x"]  # side by side
    tab.check()


def test_several_ecgs_in_one_talk_and_several_turns(tab, place):
    page = tab.page
    tab.sample()
    tab.ask("First?")
    tab.answered(2)
    page.get_by_label("Sample ECGs").click()
    page.get_by_role("option").nth(1).click()
    page.get_by_role("button", name="Show sample").click()
    page.get_by_role("radio").nth(1).wait_for()
    assert page.get_by_role("radio").nth(1).is_checked()
    tab.ask("And this one?")
    tab.answered(4)
    asked = place.left.asked[-1]
    assert [t.role for t in asked.turns] == ["user", "assistant", "user"] and len(asked.ecgs) == 2
    assert [t.text.count("<ecg>") for t in asked.turns] == [1, 0, 1]
    page.get_by_role("radio").nth(0).check()
    page.wait_for_function("() => document.querySelector('ecg-paper').getAttribute('src').includes('ecg=1&')")
    page.get_by_role("button", name="Remove ECG").click()
    tab.told("asked about already")
    tab.check()


def test_a_closed_tab_stops_its_answers(place):
    tab = Tab(place.chromium, place.address)
    tab.sample()
    place.left.say, place.left.pause = "x" * 4000, 0.05
    try:
        tab.ask("Go on for ever")
        tab.page.wait_for_selector("#talk .eg-writing")
        stream = place.left.streams[-1]
        assert not stream.done
        tab.close()
        until = time.monotonic() + 10
        while not stream.done and time.monotonic() < until:
            time.sleep(0.05)
        assert stream.finish_reason == "cancelled"
    finally:
        place.left.say, place.left.pause = None, 0.0


def test_a_page_of_somebody_else_can_neither_frame_nor_call_this_one(tab, place):
    page = tab.page
    html = f"<html><body><iframe id=f src='{place.address}'></iframe></body></html>"
    page.route("http://192.0.2.9/**", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("http://192.0.2.9/evil")
    page.wait_for_timeout(600)
    inner = page.frames[-1]
    assert "ecg-drop" not in inner.content()
    status = page.evaluate(
        """async address => {
        const tries = [];
        for (const [method, path] of [['GET', 'config'], ['POST', 'gradio_api/queue/join'], ['POST', 'ecglm/put/x']]) {
          const body = method == 'POST' ? '{}' : undefined;
          try { tries.push((await fetch(address + path, { method, body, credentials: 'include' })).status); }
          catch (e) { tries.push('blocked'); }
        }
        return tries; }""",
        place.address,
    )
    assert status == ["blocked"] * 3
