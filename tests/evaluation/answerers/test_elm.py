"""Our checkpoints as answerers: pictures of several sizes at once, recordings of a store, errors of single items."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import EcglmError
from ecglm.evaluation.answerers.base import PictureRef, Request
from ecglm.evaluation.answerers.elm import ElmAnswerer
from ecglm.evaluation.controls import apply_control
from ecglm.models.assistant import load
from ecglm.models.generate import generate
from ecglm.models.pulse_import import import_pulse
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore
from ecglm.types import Turn
from llava_world import write_llava
from small_bench import FakePtbXl, make_elm

TURN = (Turn("user", "<ecg>\nWhat is the rhythm of this ECG?"),)


@pytest.fixture(scope="module", params=["anyres", "image"])
def reader(request, tmp_path_factory):
    return make_elm(tmp_path_factory.mktemp("elm") / "best", request.param)


@pytest.fixture(scope="module")
def pictures(bench):
    return sorted((bench / "images" / "ptb-xl").glob("*.png"))


def test_p16_the_kind_of_model_is_not_read_off_its_path(tmp_path, pictures):
    """A folder without ``llava`` in its name answers from its pictures; the original would serve it text alone."""
    replies = {}
    for name in ("any-name", "llava"):
        answerer = ElmAnswerer.load(make_elm(tmp_path / name / "m"), max_new_tokens=6)
        replies[name] = answerer.answer([Request("x", TURN, (PictureRef(p),)) for p in pictures])
    assert replies["any-name"] == replies["llava"]
    assert len({r.text for r in replies["any-name"]}) > 1  # what it says depends on the picture


def test_pictures_of_several_sizes_answer_together_as_alone(reader, pictures):
    answerer = ElmAnswerer.load(reader, max_new_tokens=6)
    requests = [Request(p.name, TURN, (PictureRef(p),)) for p in pictures]
    together = answerer.answer(requests)
    assert together == [answerer.answer([r])[0] for r in requests]
    assistant = load(reader)
    for path, reply in zip(pictures[:2], together, strict=False):  # and as somebody who asks in Python
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert assistant.ask(picture, "What is the rhythm of this ECG?", max_new_tokens=6) == reply.text


def test_recordings_are_drawn_as_in_training_and_controlled_as_signals(reader, bench_store):
    answerer = ElmAnswerer.load(reader, stores=[bench_store], max_new_tokens=6)
    store, bundle = SegmentStore(bench_store), answerer.bundle
    for control in ("real", "blank", "noise", "perturb-wander"):
        request = Request("ptb-test/1", TURN, record="ptb-xl/00002", control=control, seed=3)
        segment = store[store.segments_of("ptb-xl/00002")[0]]
        if control != "real":
            segment = apply_control(control, segment, store.rate, seed=3, row_id="ptb-test/1")
        example = bundle.prompter.build("x", TURN, [bundle.representation(segment, store.rate)], generate=True)
        (expected,) = generate(bundle.elm, bundle.prompter, [example], max_new_tokens=6)
        assert answerer.answer([request])[0].text == expected["text"]


def test_single_items_fail_and_the_others_are_answered(reader, bench_store, pictures, tmp_path):
    answerer = ElmAnswerer.load(reader, stores=[bench_store], max_new_tokens=6)
    (tmp_path / "torn.png").write_bytes(pictures[0].read_bytes()[:500])
    long = (Turn("user", "<ecg>\n" + "why? " * 2000),)
    requests = [
        Request("good", TURN, (PictureRef(pictures[0]),)),
        Request("gone", TURN, (PictureRef(tmp_path / "none.png"),)),
        Request("torn", TURN, (PictureRef(tmp_path / "torn.png"),)),
        Request("record", TURN, record="ptb-xl/09999"),
        Request("long", long, (PictureRef(pictures[1]),)),
        Request("text", (Turn("user", "What is an ECG?"),)),
    ]
    good, gone, torn, record, long_reply, text = answerer.answer(requests)
    reasons = [r.error.split(":")[0] for r in (gone, torn, record, long_reply)]
    assert reasons == ["image_missing", "image_corrupt", "ecg_not_in_store", "sequence_too_long"]
    assert good == answerer.answer(requests[:1])[0] and good.error is None
    assert text.error is None and text.usage["prompt_tokens"] < good.usage["prompt_tokens"]
    assert answerer.answer([]) == []


def test_a_store_that_was_prepared_otherwise_is_refused(signal_run, tmp_path):
    source = FakePtbXl(num_patients=1, records_per_patient=(1, 1))
    prepare(source, get_pipeline("default", rate=100, seg_len=500), tmp_path / "store", progress=False)
    with pytest.raises(EcglmError, match=r"prepared otherwise than the model's data: .*rate 100 \(model: 50\)"):
        ElmAnswerer.load(signal_run / "best", stores=[tmp_path / "store"])


def test_an_imported_model_of_pictures_takes_any_store_whose_segments_are_as_long(tmp_path, bench_store):
    """Of 100 Hz and other filters too: what it sees is the drawn page. A model that we trained stays strict (above)."""
    write_llava(tmp_path / "in", tokenizer_model_max_length=4096)
    pulse, _ = import_pulse(tmp_path / "in", tmp_path / "pulse", rate=500, seg_len=2500)
    source = FakePtbXl(num_patients=1, records_per_patient=(1, 1))
    prepare(source, get_pipeline("default", rate=100, seg_len=500), tmp_path / "fine", progress=False)
    for folder in (bench_store, tmp_path / "fine"):
        answerer, store = ElmAnswerer.load(pulse, stores=[folder], max_new_tokens=4), SegmentStore(folder)
        (reply,) = answerer.answer([Request("x", TURN, record="ptb-xl/00001")])
        page = answerer.bundle.representation.page(store[0], store.rate)
        assert reply.text == load(pulse).ask(page, "What is the rhythm of this ECG?", max_new_tokens=4)
    prepare(source, get_pipeline("default", rate=100, seg_len=250), tmp_path / "short", progress=False)
    with pytest.raises(EcglmError, match=r"segments of 2.5 s, but the model's pages show 5 s; .*--seg-len 500"):
        ElmAnswerer.load(pulse, stores=[tmp_path / "short"])


def test_a_model_of_pictures_that_was_trained_here_keeps_its_pipeline(reader, tmp_path):
    source = FakePtbXl(num_patients=1, records_per_patient=(1, 1))
    prepare(source, get_pipeline("default", rate=100, seg_len=500), tmp_path / "store", progress=False)
    with pytest.raises(EcglmError, match="prepared otherwise than the model's data"):
        ElmAnswerer.load(reader, stores=[tmp_path / "store"])
