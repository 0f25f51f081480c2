"""The page in real Chromium with a real (tiny) model of pictures: a drawing, a photo, a file that is none; and a server
that is started again under an open page.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ecglm.cli import main
from ecglm.demo.house import House
from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.samples import Samples
from ecglm.demo.talk import ModelName
from ecglm.models.assistant import load
from ecglm.records.synthetic import Synthetic
from ecglm.representations.render import png_bytes, render
from ecglm.representations.synthesis import synthesise
from llava_world import write_llava
from page_world import SlowEngine, Tab, browser, require_browser

require_browser()

from ecglm.demo.app import open_page  # noqa: E402


@pytest.fixture(scope="module")
def assistant(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pulse")
    write_llava(folder / "in")
    assert main(["import", "pulse", str(folder / "in"), "--out", str(folder / "out")]) == 0
    return load(folder / "out")


def make_house(assistant, home):
    samples = Samples(pipeline=dict(assistant.bundle.pipeline), count=1)
    log = PreferenceLog(home / "p.jsonl")
    return House([ModelName("p")], [SlowEngine(assistant)], samples=samples, log=log, max_new_tokens=4, root=home)


def pages():
    """One ECG as a drawing, and as somebody's photo of the printed sheet."""
    source = Synthetic(num_patients=1, seed=5, records_per_patient=(1, 1))
    record = source.read(source.keys()[0])
    photo = io.BytesIO()
    sheet = synthesise(record.signal, record.sampling_rate, seed=3, row_id="x", size=(800, 600))
    Image.fromarray(sheet).save(photo, "JPEG")
    return png_bytes(render(record.signal, record.sampling_rate, size=(660, 510))), photo.getvalue()


def file(name, data):
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


@pytest.mark.filterwarnings("error:The value passed into gr:UserWarning")
def test_drawings_and_photos_are_shown_unmeasured_and_answered_and_a_new_server_is_found(assistant, tmp_path):
    drawn, photo = pages()
    house = make_house(assistant, tmp_path)
    with browser() as chromium:
        with open_page(house, port=0) as address:
            tab = Tab(chromium, address)
            page = tab.page
            for number, (name, data) in enumerate((("drawn.png", drawn), ("photo.jpg", photo)), 1):
                tab.drop(file(name, data))
                tab.told(f"ECG {number}, {name}, is part of the talk")
                page.wait_for_function("name => document.querySelector('ecg-paper').getAttribute('alt').includes(name)",
                                       arg=name)  # fmt: skip
                shown = tab.paper()
                wide, high = Image.open(io.BytesIO(data)).size
                assert (shown["width"], shown["height"]) == (wide, high) and shown["dark"] > 300
                assert "nothing" not in shown["alt"] and "not measured" in page.locator("#table").inner_text()
                assert not page.get_by_label("Layout").is_visible()
                tab.ask("What is the rhythm?")
                tab.answered(number)
            # What the model read is what was dropped.
            visit = next(iter(house.sessions._sessions.values())).kept
            assert np.array_equal(visit.talk.ecgs[0].shown.picture, np.asarray(Image.open(io.BytesIO(drawn))))
            expected = assistant.ask(visit.talk.ecgs[0].shown.picture, "What is the rhythm?", max_new_tokens=4)
            assert visit.talk.questions[0].answers[0][0].text == expected
            # Calipers tell nothing on a picture, and a rating says that training cannot use it.
            page.get_by_role("button", name="Place calipers").click()
            assert page.locator("ecg-paper output").inner_text() == "The scale of a picture is not known"
            page.get_by_role("button", name="Good answer").first.click()
            tab.told("pictures are not kept")
            tab.drop(file("x.png", b"<html><script>alert(1)</script>"))
            tab.told("web page or SVG")
            tab.check()
            page.evaluate("() => document.querySelectorAll('#talk .eg-turn').forEach((n) => n.remove())")
        # The server ends and another takes its place: the open page notices and begins anew by itself.
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        old = page.locator("ecg-drop").get_attribute("talk")
        page.get_by_role("button", name="Show sample").click()
        page.get_by_text("Connection to the server was lost").first.wait_for()
        with open_page(make_house(assistant, tmp_path), port=port):
            page.wait_for_function("old => { const d = document.querySelector('ecg-drop'); "
                                   "return d && d.getAttribute('talk') && d.getAttribute('talk') !== old; }",
                                   arg=old)  # fmt: skip
            assert page.locator("ecg-paper").count() == 0
            tab.complaints.clear()  # the browser's own notes of the moments without a server
            tab.sample()
            tab.check()
