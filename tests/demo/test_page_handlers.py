"""The page's handlers without a browser: visits, ECGs, questions, ratings, neighbours."""

from __future__ import annotations

import io
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ecglm.demo import handlers as handlers_module
from ecglm.demo import house as house_module
from ecglm.demo.answering import ask_models, exchanges
from ecglm.demo.doors import COOKIE
from ecglm.demo.handlers import Handlers
from ecglm.demo.house import MAX_WAITING_FILES, House
from ecglm.demo.page import build
from ecglm.demo.preferences import PreferenceLog
from ecglm.demo.samples import Samples
from ecglm.demo.sessions import SessionGone
from ecglm.demo.streams import Stream
from ecglm.demo.talk import ModelName
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.models.assistant import load
from ecglm.retrieval.index import build_index
from ecglm.retrieval.search import Index
from ecglm.store.reader import SegmentStore
from page_world import Parrot

gr = pytest.importorskip("gradio")
ONE, TWO = "a" * 43, "b" * 43


@pytest.fixture(scope="module")
def assistant(signal_run):
    return load(signal_run / "best")


@pytest.fixture
def make(assistant, tmp_path):
    made = []

    def house(*says, log=True, **options):
        engines = [Parrot(assistant, say) for say in says or ("an answer",)]
        made.append(
            House(
                [ModelName(f"m{n}") for n in range(len(engines))],
                engines,
                samples=Samples(pipeline=dict(assistant.bundle.pipeline), count=3),
                log=PreferenceLog(tmp_path / "p.jsonl") if log else None,
                root=tmp_path,
                **options,
            )
        )
        return made[-1]

    yield house
    for one in made:
        one.close_all()


def request(cookie=ONE, tab="t1"):
    return SimpleNamespace(headers={"cookie": f"{COOKIE}={cookie}"}, session_hash=tab)


@pytest.fixture
def page(make):
    """Handlers whose components are their own names, so that what changes can be read."""
    house = make()
    found = Handlers(house)
    build(found, names=["m0"], samples=[("s", "Synthetic 1")])
    found.part = {name: name for name in found.part}
    found.open(request())
    return found


def npy(folder, name="x.npy", **shape):
    folder.mkdir(exist_ok=True)
    np.save(folder / name, np.random.default_rng(0).normal(0, 0.2, (12, 5000)).astype(np.float32))
    return folder / name


def uploaded(visit, name, data):
    word, place = visit.place_for(name)
    place.write_bytes(data)
    return word


# --- visits


def test_a_visit_belongs_to_one_browser_and_one_tab(make):
    house = make()
    mine, theirs = house.open(ONE, "t1"), house.open(TWO, "t1")
    assert house.visit(ONE, "t1") is mine and house.visit(TWO, "t1") is theirs
    assert house.by_token(mine.token, ONE) is mine and house.by_token(mine.token, TWO) is None
    assert mine.token != theirs.token and len(mine.token) == 43 and mine.folder != theirs.folder
    for cookie, tab in (("c" * 43, "t1"), (ONE, "t2"), ("", "t1")):
        with pytest.raises(SessionGone):
            house.visit(cookie, tab)
    house.close(TWO, "t1")
    assert not theirs.folder.exists() and house.visit(ONE, "t1") is mine
    again = house.open(ONE, "t1")  # the tab was loaded again
    assert again is not mine and house.by_token(mine.token, ONE) is None
    with pytest.raises(EcglmError, match="cookie"):
        house.open("", "t1")


def test_uploads_are_known_by_words_once_and_are_bounded(make):
    visit = make().open(ONE, "t")
    word = uploaded(visit, "a.npy", b"x")
    assert [p.name for p in visit.take([word])] == ["a.npy"]
    for words in ([word], [], ["../../etc/passwd"]):
        with pytest.raises(EcglmError, match="drop them again"):
            visit.take(words)
    for _ in range(MAX_WAITING_FILES):
        visit.place_for("b.npy")
    with pytest.raises(EcglmError, match="too many"):
        visit.place_for("b.npy")


def test_closing_the_house_leaves_nothing_on_the_disk(make, tmp_path):
    house = make()
    uploaded(house.open(ONE, "t"), "a.npy", b"x")
    house.close_all()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["p.jsonl"]


# --- neighbours


def test_neighbours_are_training_ecgs_and_never_the_samples_own(assistant, world, tmp_path):
    build_index([world.store], tmp_path / "index", data=[world.data], say=lambda line: None)
    index = Index.load(tmp_path / "index")
    splits = {e: c.split for c in world.conversations() for e in c.ecgs}
    samples = Samples([SegmentStore(world.store)], pipeline=dict(assistant.bundle.pipeline), splits=splits, count=12)
    house = House([ModelName("a")], [Parrot(assistant)], samples=samples, index=index, root=tmp_path)
    visit = house.open(ONE, "t")
    train = next(s.title for s in samples.all() if s.split == "train")
    placed = house.add(visit, samples.get(train))
    house.find_neighbours(visit, placed)
    hits = visit.hits[placed.number]
    assert len(hits) == 3 and all(visit.neighbours[placed.number][n].picture for n in range(3))
    assert not {h.record_id for h in hits} & set(placed.shown.origin.people)
    assert not {h.patient_id for h in hits} & set(placed.shown.origin.people)
    assert {splits[h.record_id] for h in hits} == {"train"}


# --- handlers


def test_a_sample_is_shown_asked_about_rated_and_cleared(page):
    found = page.pick(request(), "Synthetic 2")
    assert "ecg-paper" in found["paper"] and "Measured" in found["table"] and found["view"]["visible"]
    steps = list(page.ask(request(), "What is it?"))
    assert steps[0]["question"] == "" and steps[0]["stop"]["visible"] and not steps[-1]["stop"]["visible"]
    assert "an answer" in steps[-1]["talk"] and "/ecglm/show/talk" in steps[-1]["exports"]
    visit = page.visit_of(request())
    answer = visit.talk.questions[0].answers[0][0].id

    def act(**data):
        return page.act(request(), SimpleNamespace(_data=data), False)

    assert "your rating is stored" in act(act="up", answer=answer)["status"]
    assert "taken back" in act(act="up", answer=answer)["status"]
    assert act(act="correct", answer=answer)["correction"] == "an answer"
    assert "correction is stored" in page.correct(request(), "better", False)["status"]
    assert [(r["source"], r["thumb"], r["chosen"]) for r in page.house.log.rows()] == [
        ("thumbs", 1, None), ("thumbs", None, None), ("correction", None, "better")
    ]  # fmt: skip
    for wrong in ({"act": "up", "answer": "x"}, {"act": "drop table", "answer": answer}, {}):
        assert 'role="alert"' in act(**wrong)["status"]
    cleared = page.clear(request())
    assert "ecg-paper" not in cleared["paper"] and "an answer" not in cleared["talk"]
    assert visit.talk.questions == () and visit.talk.ecgs == ()


def test_an_upload_is_read_and_removed_whatever_comes_of_it(page, tmp_path):
    visit = page.visit_of(request())

    def drop(*words, talk=None):
        return page.files(request(), SimpleNamespace(_data={"talk": talk or visit.token, "sent": list(words)}))

    data = npy(tmp_path / "in").read_bytes()
    found = drop(uploaded(visit, "x.npy", data))
    assert found["facts"]["visible"] and "does not say" in found["status"] and visit.pending
    assert "Hz" in page.files_again(request(), "abc", "standard", "mV")["status"]
    assert "ecg-paper" in page.files_again(request(), "500", "standard", "mV")["paper"]
    assert not visit.pending and [p for p in visit.folder.rglob("*") if p.is_file()] == []
    assert 'role="alert"' in drop(uploaded(visit, "y.npy", b"nonsense"))["status"]
    assert [p for p in visit.folder.rglob("*") if p.is_file()] == []
    assert "not here any more" in page.files_again(request(), "500", "", "")["status"]
    for event in ({"talk": "other", "sent": []}, {"talk": visit.token, "sent": [1]}, {"talk": visit.token}, None):
        said = page.files(request(), SimpleNamespace(_data=event))["status"]
        assert 'role="alert"' in said
    assert "too large" in page.files(
        request(), SimpleNamespace(_data={"talk": visit.token, "failed": "too large"})
    )["status"]  # fmt: skip


def test_several_ecgs_can_be_looked_at_and_removed(page):
    page.pick(request(), "Synthetic 1")
    found = page.pick(request(), "Synthetic 2")
    assert found["ecgs"]["visible"] and len(found["ecgs"]["choices"]) == 2
    assert "ecg=1&amp;" in page.switch(request(), 1)["paper"]
    assert "layout=12x1" in page.show(request(), 1, "12x1", 0, True)["paper"]
    assert "layout=12x1" in page.show(request(), 1, "no such layout", 0, True)["paper"]
    assert 'role="alert"' in page.show(request(), 1, "12x1", 99, True)["status"]
    assert "was removed" in page.remove(request())["status"]
    page.remove(request())
    assert "no ECG to remove" in page.remove(request())["status"]
    for odd in (99, None, "2", -1):
        page.switch(request(), odd)


def test_an_event_of_a_tab_that_is_not_known_changes_nothing(page):
    for who in (request("z" * 43), request(tab="other"), request("")):
        assert "no longer connected" in page.pick(who, "Synthetic 1")["status"]
        assert "no longer connected" in next(page.ask(who, "x"))["status"]


def test_without_a_file_nothing_is_rated(make):
    house = make(log=False)
    found = Handlers(house)
    build(found, names=["m0"], samples=[])
    found.part = {name: name for name in found.part}
    found.open(request())
    found.pick(request(), "Synthetic 1")
    last = list(found.ask(request(), "What?"))[-1]
    assert "data-act" not in last["talk"]
    said = found.act(request(), SimpleNamespace(_data={"act": "up", "answer": "x"}), True)["status"]
    assert "--preferences" in said


def answered(house, visit, question):
    """Ask, and wait for all answers."""
    visit.talk.ask(question)
    running = ask_models(house, visit, lambda: None)
    while not running.settled():
        time.sleep(0.01)


def test_a_model_that_cannot_answer_says_so_and_the_other_still_does(make, assistant):
    class Full(Parrot):
        def submit(self, *args, **given):
            raise EcglmError("5 requests wait already; try again in a moment")

    house = make("one", "two")
    house.engines = (Full(assistant), house.engines[1])
    visit = house.open(ONE, "t")
    house.add(visit, house.samples.get("Synthetic 1"))
    answered(house, visit, "What?")
    left, right = exchanges(visit)[0].answers
    assert left.state == "failed" and "wait already" in left.text and right.text == "two"


def test_answers_that_nobody_waits_for_are_stopped(make):
    house = make("x" * 5000)
    house.engines[0].pause = 0.05
    visit = house.open(ONE, "t")
    house.add(visit, house.samples.get("Synthetic 1"))
    visit.talk.ask("What?")
    running = ask_models(house, visit, lambda: None)
    running.end()
    assert house.engines[0].streams[0].finish_reason == "cancelled" and not visit.writing
    assert visit.talk.questions[0].answers[0][0].state == "cancelled"
    # And where the talk was cleared meanwhile there is nothing to write into.
    visit.talk.ask("Again?")
    running = ask_models(house, visit, lambda: None)
    house.clear(visit)
    running.end()
    assert visit.talk.questions == ()


def test_only_frames_at_reading_pace_are_sent(monkeypatch, page):
    """A fast model does not send its whole text again for every token."""
    monkeypatch.setattr(handlers_module, "FRAMES", 10)
    page.house.engines[0].say, page.house.engines[0].pause = "y" * 700, 0.004
    page.pick(request(), "Synthetic 1")
    start = time.monotonic()
    steps = list(page.ask(request(), "What?"))
    assert len(steps) <= 4 + 10 * (time.monotonic() - start)


def test_two_tabs_are_answered_at_the_same_time(page):
    page.house.engines[0].say, page.house.engines[0].pause = "z" * 70, 0.03
    page.open(request(tab="t2"))
    done = {}
    for tab in ("t1", "t2"):
        page.pick(request(tab=tab), "Synthetic 1")

    def ask(tab):
        start = time.monotonic()
        list(page.ask(request(tab=tab), f"{tab}?"))
        done[tab] = (start, time.monotonic())

    threads = [threading.Thread(target=ask, args=(tab,)) for tab in ("t1", "t2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(s for s, _ in done.values()) < min(e for _, e in done.values())


def test_a_picture_is_shown_as_it_is_and_asked_about_where_the_model_reads_pictures(make, assistant):
    import cv2

    house = make("a picture")
    reads = SimpleNamespace(bundle=assistant.bundle, reads_pictures=True, encode_picture=lambda picture: picture.shape)
    house.engines[0].assistant = reads
    found = Handlers(house)
    build(found, names=["m0"], samples=[])
    found.part = {name: name for name in found.part}
    assert "photo or scan" in found.open(request())["drop"]
    visit = found.visit_of(request())
    png = cv2.imencode(".png", np.full((80, 120, 3), 200, np.uint8))[1].tobytes()
    event = SimpleNamespace(_data={"talk": visit.token, "sent": [uploaded(visit, "scan.png", png)]})
    shown = found.files(request(), event)
    assert "ecg-paper" in shown["paper"] and 'scale="{}"' in shown["paper"] and not shown["layout"]["visible"]
    assert shown["segment"]["value"] is None and not shown["segment"]["visible"]  # there are none to choose from
    assert "a picture holds no signal" in shown["table"]
    assert "a picture" in list(found.ask(request(), "What is it?"))[-1]["talk"]
    assert house.engines[0].asked[0].ecgs == [(80, 120, 3)]


@pytest.mark.parametrize(("ecgs", "words"), [
    ([{"file": None, "record": "", "rate": 100}], "Without a copy"),
    ([{"file": None, "record": "", "rate": None}], "pictures are not kept"),
    ([{"file": "ecgs/x.npy", "record": "", "rate": 100}, {"file": None, "record": "7", "rate": 100}], ""),
])  # fmt: skip
def test_thanks_tell_whether_training_can_use_what_was_said(ecgs, words):
    said = handlers_module._thanks("rating", {"ecgs": ecgs})
    assert said.startswith("Thank you: your rating is stored.") and words in said
    assert bool(words) == ("ecglm align" in said)


def test_several_ecgs_of_one_drop_come_in_one_after_another(page):
    visit = page.visit_of(request())
    names = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    signal = np.random.default_rng(0).normal(0, 0.2, (12, 5000)).astype(np.float32)

    def told(**facts):
        buffer = io.BytesIO()
        np.savez(buffer, signal=signal, **facts)
        return buffer.getvalue()

    whole = told(rate=500, leads=np.array(names), units=np.array("mV"))
    files = {"a.npz": whole, "bad.npz": b"nonsense", "asks.npz": told(), "b.npz": whole}
    words = [uploaded(visit, name, data) for name, data in files.items()]
    found = page.files(request(), SimpleNamespace(_data={"talk": visit.token, "sent": words}))
    assert [p.shown.name for p in visit.talk.ecgs] == ["a.npz", "b.npz"] and visit.current == 2
    assert "2 of 4 ECGs are part of the talk" in found["status"] and 'role="alert"' in found["status"]
    assert "bad.npz" in found["status"] and "asks.npz does not say" in found["status"]
    assert not visit.pending and [p for p in visit.folder.rglob("*") if p.is_file()] == []


def test_what_was_sent_before_a_file_that_failed_does_not_wait(page):
    visit = page.visit_of(request())
    event = {"talk": visit.token, "sent": [uploaded(visit, "a.npz", b"x"), 1, "other"], "failed": "b.md: not read here"}
    assert "b.md" in page.files(request(), SimpleNamespace(_data=event))["status"]
    assert not visit.uploads and [p for p in visit.folder.rglob("*") if p.is_file()] == []


def test_files_of_all_tabs_together_are_bounded(make, monkeypatch):
    monkeypatch.setattr(house_module, "MAX_WAITING_BYTES", 100)
    house = make()
    one, two = house.open(ONE, "t"), house.open(TWO, "t")
    word, _ = house.place_for(one, "a.npy", 60)
    with pytest.raises(EcglmError, match="try again in a moment"):
        house.place_for(two, "b.npy", 41)
    house.place_for(two, "b.npy", 40)
    one.pending = tuple(one.take([word]))  # read, and waiting for facts: still there
    assert one.waiting_bytes == 60
    one.pending = ()
    house.place_for(two, "c.npy", 60)


class Narrow(Parrot):
    """Reads so many ECGs at most."""

    most = 2

    def submit(self, turns, ecgs, **given):
        if len(ecgs) <= self.most:
            return super().submit(turns, ecgs, **given)
        stream = Stream((), given.get("listen"))
        stream.fail(RejectedRecord("sequence_too_long", "ask: too many tokens"))
        return stream


def test_a_talk_with_more_ecgs_than_a_model_reads_goes_on_without_the_oldest(make, assistant):
    house = make()
    house.engines = (Narrow(assistant, "an answer"),)
    visit = house.open(ONE, "t1")
    for number in range(4):
        house.add(visit, house.samples.get("Synthetic 1"))
        answered(house, visit, f"Question {number}?")
    told = [exchange.answers[0] for exchange in exchanges(visit)]
    assert [b.state for b in told] == ["done"] * 4 and told[1].note == ""
    assert told[2].note.startswith("without ECG 1 and what") and told[3].note.startswith("without ECG 1, 2 and what")
    assert [len(asked.ecgs) for asked in house.engines[0].asked] == [1, 2, 2, 2]
    row = house.log.thumb(visit.talk, told[3].id, 1, keep=False)
    assert len(row["ecgs"]) == 2 and row["turns"][0]["text"].startswith("ECG 3: <ecg>")


class Forgetful(Parrot):
    """Was not shown all of the talk."""

    def submit(self, turns, ecgs, **given):
        stream = super().submit(turns, ecgs, **given)
        stream.truncated = ("dropped_oldest_turns",)
        return stream


def test_an_answer_to_a_talk_that_was_shortened_says_so(make, assistant):
    house = make()
    house.engines = (Forgetful(assistant, "an answer"),)
    visit = house.open(ONE, "t1")
    house.add(visit, house.samples.get("Synthetic 1"))
    answered(house, visit, "Question?")
    ((bubble,),) = [exchange.answers for exchange in exchanges(visit)]
    assert bubble.state == "done" and bubble.note.startswith("without its oldest questions: the talk is longer")
