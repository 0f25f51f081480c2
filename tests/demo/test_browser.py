"""The page in real Chromium, with a real (tiny) model that writes slowly: what a user does with one model."""

from __future__ import annotations

import itertools
import json
import re
import time

import numpy as np
import pytest

from ecglm.demo.house import House
from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.samples import Samples
from ecglm.demo.talk import ModelName
from ecglm.models.assistant import load
from ecglm.records.synthetic import Synthetic
from ecglm.training.preferences import read_pairs
from page_world import SlowEngine, Tab, browser, require_browser

require_browser()

from ecglm.demo.app import open_page  # noqa: E402


@pytest.fixture(scope="module")
def place(signal_run, tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    assistant = load(signal_run / "best")
    engine = SlowEngine(assistant)
    house = House(
        [ModelName("tiny", "abc")],
        [engine],
        samples=Samples(pipeline=dict(assistant.bundle.pipeline), count=4),
        log=PreferenceLog(home / "preferences.jsonl"),
        max_new_tokens=24,
        root=home,
    )
    with open_page(house, port=0) as address, browser() as chromium:
        yield address, house, chromium, engine


@pytest.fixture(scope="module")
def context(place):
    return place[2].new_context(viewport={"width": 1280, "height": 800})


@pytest.fixture
def tab(place, context):
    address, _, chromium, engine = place
    engine.pause = 0.0
    found = Tab(chromium, address, context)
    yield found
    found.close()


def npy(tmp_path, seconds=10, rate=500):
    rhythm = Synthetic(num_patients=1, seed=5, duration_s=seconds, records_per_patient=(1, 1))
    record = rhythm.read(rhythm.keys()[0])
    signal = np.repeat(record.signal, max(1, round(rate / record.sampling_rate)), axis=1)
    np.save(tmp_path / "mine.npy", signal.astype(np.float32))
    return tmp_path / "mine.npy", record.sampling_rate * max(1, round(rate / record.sampling_rate))


def test_an_array_asks_for_what_it_does_not_say_then_appears_is_measured_and_asked_about(tab, place, tmp_path):
    _, house, _, engine = place
    file, rate = npy(tmp_path)
    page = tab.page
    tab.drop(file)
    tab.told("does not say")
    page.get_by_label("Sampling rate (Hz)").fill("fast")
    page.get_by_label("Leads, in order").fill("standard")
    page.get_by_role("button", name="Read the file so").click()
    tab.told("number in Hz")
    page.get_by_label("Sampling rate (Hz)").fill(f"{rate:g}")
    page.get_by_label("Units").click()
    page.get_by_role("option", name="mV").click()
    page.get_by_role("button", name="Read the file so").click()
    tab.told("is part of the talk")
    shown = tab.paper()
    assert shown["width"] == 1600 and shown["dark"] > 3000 and "mine.npy" in shown["alt"]
    assert "bpm" in page.locator("#table summary").inner_text()
    # Uploads are gone from the disk as soon as they were read.
    assert [p for p in house.sessions.root.glob("session-*/**/*") if p.is_file()] == []

    # Calipers: 200 ms are 5 mm of paper, whatever the zoom.
    scale = json.loads(page.locator("ecg-paper").get_attribute("scale"))
    box = page.locator("ecg-paper img").bounding_box()
    per_second = scale["px_per_s"] * box["width"] / scale["width"]
    per_mv = scale["px_per_mv"] * box["width"] / scale["width"]
    start = (box["x"] + 150, box["y"] + 90)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + per_second * 0.8, start[1] - per_mv * 0.5, steps=3)
    page.mouse.up()
    said = page.locator("ecg-paper output").inner_text()
    ms, bpm, mv = map(float, re.fullmatch(r"(\d+) ms · (\d+) bpm · ([\d.]+) mV", said).groups())
    assert abs(ms - 800) <= 12 and abs(bpm - 60000 / ms) <= 0.5 and abs(mv - 0.5) <= 0.03
    page.get_by_role("button", name="Zoom in").click()
    wide = page.locator("ecg-paper img").bounding_box()["width"]
    assert wide == pytest.approx(box["width"] * 1.4, rel=0.02)
    assert page.locator("ecg-paper output").inner_text() == said
    # Another layout is another picture; marks are drawn into it.
    page.get_by_label("Layout").click()
    page.get_by_role("option", name="12x1").click()
    page.wait_for_function("() => document.querySelector('ecg-paper').getAttribute('src').includes('layout=12x1')")
    assert tab.paper()["height"] > shown["height"]
    page.get_by_label("Marks of P, QRS, T").check()
    page.wait_for_function("() => document.querySelector('ecg-paper').getAttribute('src').includes('marks=1')")
    tab.paper()

    # The answer streams: it is seen growing, and is in the end the one that the model gives.
    engine.pause = 0.12
    tab.ask("What is the rhythm?")
    seen = []
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = tab.answers()
        if found and found[-1] and (not seen or seen[-1] != found[-1]):
            seen.append(found[-1])
        if found and not page.locator("#talk .eg-writing").count():
            break
        time.sleep(0.03)
    assert len(seen) >= 2 and all(late.startswith(early) for early, late in itertools.pairwise(seen))
    visit = next(iter(house.sessions._sessions.values())).kept
    assistant = house.engines[0].assistant
    expected = assistant.ask(visit.talk.ecgs[0].shown.record, "What is the rhythm?", max_new_tokens=24)
    assert visit.talk.questions[0].answers[0][-1].text == expected == seen[-1]
    tab.check()


def test_stop_thumbs_correction_and_second_thoughts_are_stored_for_alignment(tab, place, tmp_path):
    _, house, _, engine = place
    page, file = tab.page, house.log.path
    before = len(house.log.rows())
    tab.sample()
    engine.pause = 0.15
    tab.ask("What is the axis?")
    page.wait_for_function("() => (document.querySelector('#talk .eg-writing .eg-text')?.innerText || '').length > 1")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('#talk .eg-writing')")
    assert "stopped" in page.locator("#talk .eg-who").last.inner_text()
    engine.pause = 0.0
    tab.ask("What is the rhythm?")
    answer = tab.answered(2)[-1]
    page.get_by_role("button", name="Good answer").last.press("Enter")
    tab.told("your rating is stored")
    assert page.evaluate("() => document.activeElement.dataset.act") == "up"  # the keyboard stays where it was
    assert page.get_by_role("button", name="Good answer").last.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Correct this answer").last.press("Enter")
    box = page.get_by_label("What the answer should have been")
    box.wait_for()
    page.wait_for_function("() => document.activeElement.closest('#correction')")
    assert box.input_value() == answer
    box.fill("sinus rhythm with <b>one</b> premature beat")
    page.get_by_role("button", name="Save correction").click()
    tab.told("your correction is stored")
    assert "<b>one</b>" in page.locator(".eg-corrected").inner_text()
    rows = house.log.rows()[before:]
    assert [(r["source"], r["thumb"]) for r in rows] == [("thumbs", 1), ("correction", None)]
    assert rows[1]["chosen"] == "sinus rhythm with <b>one</b> premature beat" and rows[1]["rejected"] == answer
    assert all(r["turns"][-1]["text"].endswith("What is the rhythm?") and r["ecgs"][0]["sha256"] for r in rows)
    assert rows[0]["model"] == {"name": "tiny", "fingerprint": "abc"}

    # A long talk scrolls in its own place: it covers nothing, and who reads further up is left there.
    tab.ask("long words " * 250)
    tab.answered(3)
    over = """() => { const talk = document.querySelector('#talk'), box = document.querySelector('#question textarea');
      const at = box.getBoundingClientRect();
      return [talk.scrollHeight > talk.clientHeight + 50, talk.scrollTop > 50,
        document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2) === box]; }"""
    assert page.evaluate(over) == [True, True, True]
    page.evaluate("() => { document.querySelector('#talk').scrollTop = 0; }")
    page.get_by_role("button", name="Bad answer").first.click()
    tab.told("your rating is stored")
    page.wait_for_timeout(200)
    assert page.evaluate("() => document.querySelector('#talk').scrollTop") < 50

    # Another try of the same model can be compared with the first.
    page.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => document.querySelectorAll('#talk .eg-pair .eg-model').length == 2")
    tab.answered(4)
    tab.check()
    # A key pressed by mistake loses no talk: the browser asks first.
    page.evaluate("() => { setTimeout(() => location.reload(), 0); }")
    until = time.monotonic() + 10
    while not tab.complaints and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert [c.split()[0] for c in tab.complaints] == ["dialog"] and len(tab.answers()) == 4
    # What was written is what alignment learns from: the correction is a pair, lone thumbs are counted.
    (tmp_path / "mine.jsonl").write_text("".join(line + "\n" for line in file.read_text().splitlines()[before:]))
    found = read_pairs([tmp_path / "mine.jsonl"])
    assert [(p.chosen, p.rejected) for p in found.pairs] == [(rows[1]["chosen"], answer)]
    assert found.num_rows == 3


def test_bad_files_say_so_in_one_line_and_change_nothing(tab, place, tmp_path):
    page = tab.page
    for name, data, words in (
        ("x<img src=q onerror=alert(1)>.npy", b"\x93NUMPY broken", ".npy"),
        ("page.npy", b"<html><script>alert(1)</script>", "web page"),
        ("alone.hea", b"alone 12 500 5000\n", "alone"),
        ("virus.exe", b"MZ", "not a kind of file"),
    ):
        tab.drop({"name": name, "mimeType": "application/octet-stream", "buffer": data})
        line = tab.told(words)
        assert "\n" not in line and "Traceback" not in line and "/tmp" not in line
        page.evaluate("() => document.querySelector('#status .eg-status').textContent = ''")
    assert page.locator("ecg-paper").count() == 0
    big = 33 << 20
    page.evaluate(
        """size => { const drop = document.querySelector('ecg-drop'), data = new DataTransfer();
        data.items.add(new File([new Uint8Array(size)], 'big.npy'));
        const zone = drop.shadowRoot.querySelector('label');
        zone.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true })); }""",
        big,
    )
    tab.told("larger than")
    tab.ask("What is the rhythm?")
    tab.told("no ECG in this talk yet")
    tab.complaints = [c for c in tab.complaints if "415" not in c]  # the browser's own note of the refused upload
    tab.check()


@pytest.mark.realdata
def test_a_real_wfdb_pair_is_shown_and_asked_about(tab, ptb_xl):
    header = sorted(ptb_xl.rglob("*_hr.hea"))[0]
    tab.drop(header, header.with_suffix(".dat"))
    tab.told("is part of the talk")
    shown = tab.paper()
    assert shown["dark"] > 3000 and header.name in shown["alt"]
    tab.ask("What is the rhythm?")
    assert tab.answered(1)[0]
    with tab.page.expect_download() as saved:
        tab.page.get_by_role("link", name="Save talk as text").click()
    text = saved.value.path().read_text()
    assert "What is the rhythm?" in text and header.stem not in text and "esearch" in text
    tab.check()


def test_two_sessions_side_by_side_do_not_mix_and_what_is_cleared_is_gone(tab, place):
    address, house, chromium, _ = place
    other = Tab(chromium, address)
    try:
        tab.sample()
        tab.ask("What is the rhythm? mine")
        tab.answered(1)
        assert other.answers() == [] and other.page.locator("ecg-paper").count() == 0
        other.sample()
        other.ask("What is the axis? yours")
        other.answered(1)
        assert "yours" not in tab.page.locator("#talk").inner_text()
        assert "mine" not in other.page.locator("#talk").inner_text()
        # The other's picture is not there for this browser, even by its whole address.
        theirs = other.paper()["src"]
        assert other.page.request.get(theirs).status == 200
        assert tab.page.request.get(theirs).status == 404
        # Nor does it help to speak as the other's page.
        token = other.page.locator("ecg-drop").get_attribute("talk")
        sent = tab.page.request.post(
            f"{tab.address}/ecglm/put/upload", data=b"x", headers={"x-talk": token, "x-name": "a.npy"}
        )
        assert sent.status == 403
        tab.page.get_by_role("button", name="Clear all").click()
        tab.told("was deleted")
        assert tab.answers() == [] and tab.page.locator("ecg-paper").count() == 0
        assert len(other.answers()) == 1
        open_before = len(house.sessions)
    finally:
        other.close()
    until = time.monotonic() + 10
    while len(house.sessions) >= open_before and time.monotonic() < until:
        time.sleep(0.05)
    assert len(house.sessions) == open_before - 1  # its tab is closed: it is forgotten
    tab.check()


def test_the_whole_way_by_keyboard_with_focus_in_sight(tab):
    page = tab.page

    def focused():
        return page.evaluate(
            """() => {
            let n = document.activeElement;
            while (n.shadowRoot?.activeElement) n = n.shadowRoot.activeElement;
            const ring = (x) => {
              const s = x && getComputedStyle(x);
              return s && s.outlineStyle !== 'none' && s.outlineWidth !== '0px';
            };
            const name = n.getAttribute('aria-label') || n.innerText || n.labels?.[0]?.innerText || '';
            const seen = ring(n) || ring(n.closest('label')) || getComputedStyle(n).boxShadow !== 'none';
            return { tag: n.tagName, name, ring: Boolean(seen) }; }"""
        )

    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(focused())
        if "Show sample" in seen[-1]["name"]:
            page.keyboard.press("Enter")
            break
    names = " | ".join(s["name"] for s in seen)
    assert "Choose an ECG" in names and "Sample" in names and "Show sample" in names
    assert all(s["ring"] for s in seen)
    tab.paper()
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(focused())
        if "Place calipers" in seen[-1]["name"]:
            page.keyboard.press("Enter")
            break
    before = page.locator("ecg-paper output").inner_text()
    assert "First end" in focused()["name"] and re.search(r"\d+ ms", before)
    page.keyboard.press("Shift+ArrowLeft")
    after = page.locator("ecg-paper output").inner_text()
    assert int(after.split(" ms")[0]) > int(before.split(" ms")[0])
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(focused())
        if seen[-1]["tag"] == "TEXTAREA":
            break
    page.keyboard.type("What is the rhythm?")
    page.keyboard.press("Enter")
    tab.answered(1)
    assert focused()["tag"] == "TEXTAREA" and page.locator("#question textarea").input_value() == ""
    tab.check()


def test_it_fits_a_phone_and_says_at_all_times_that_it_is_for_research(place):
    address, _, chromium, engine = place
    engine.pause = 0.0
    tab = Tab(chromium, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    try:
        tab.sample()
        tab.ask("What is the rhythm?")
        tab.answered(1)
        assert tab.page.evaluate("() => document.documentElement.scrollWidth") <= 390
        for where in ("0", "document.body.scrollHeight"):
            tab.page.evaluate(f"() => window.scrollTo(0, {where})")
            box = tab.page.get_by_role("note").bounding_box()
            assert 0 <= box["y"] < 200 and "research only" in tab.page.get_by_role("note").inner_text()
        tab.check()
    finally:
        tab.close()
