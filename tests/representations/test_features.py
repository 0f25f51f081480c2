"""The ECG as a line of measurements: what it says, that it says when it cannot say, and an ELM that reads it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ecglm.errors import ConfigError, EcglmError
from ecglm.records.synthetic import Synthetic
from ecglm.representations.base import build_representation
from ecglm.representations.features import ITEMS, FeaturesOptions, FeaturesRepresentation, describe
from ecglm.signals.measured import Measurements
from ecglm.types import LEADS

KNOWN = Measurements(
    heart_rate=72.4,
    regularity="regular",
    beats="N" * 12,
    pr_ms=160.0,
    qrs_ms=91.6,
    qt_ms=400.2,
    qtc_bazett_ms=430.0,
    qtc_fridericia_ms=420.0,
    axis_deg=-0.3,
    st_mv={lead: 0.21 if lead in ("V2", "V4") else -0.06 if lead == "III" else 0.0 for lead in LEADS},
)


def test_the_line_is_the_measurements_in_words():
    assert describe(KNOWN) == (
        "Heart rate 72 bpm. Rhythm regular. PR 160 ms. QRS 92 ms. QT/QTc 400/430 ms. Axis 0°. "
        "ST elevation V2 +0.21 mV, V4 +0.21 mV, depression III -0.06 mV."
    )
    options = FeaturesOptions(items=("qt", "rate"), qtc="fridericia")
    assert describe(KNOWN, options) == "QT/QTc 400/420 ms. Heart rate 72 bpm."


def test_v2_and_v3_need_twice_the_elevation():
    m = dataclasses.replace(KNOWN, st_mv=dict.fromkeys(LEADS, 0.15))
    line = describe(m, FeaturesOptions(items=("st",), decimals=1))
    assert "V1 +0.1 mV" in line and "V2" not in line and "V3" not in line and "depression none" in line


def test_what_cannot_be_measured_is_said_or_left_out():
    m = dataclasses.replace(KNOWN, pr_ms=None, qtc_bazett_ms=None)
    said = describe(m, FeaturesOptions(items=("rate", "pr", "qt")))
    assert said == "Heart rate 72 bpm. PR not measurable. QT/QTc not measurable."
    assert describe(m, FeaturesOptions(items=("rate", "pr"), unmeasured="omit")) == "Heart rate 72 bpm."
    assert describe(Measurements(), FeaturesOptions(unmeasured="omit")) == "Nothing measurable."


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_has_words_for_a_known_and_for_a_blank_ecg(item):
    record = Synthetic(num_patients=1, rate=250, seed=1, rhythms=("sinus_rhythm",)).read("synthetic/s1-p00000-1")
    read = FeaturesRepresentation(items=(item,))
    assert "not measurable" not in read(record.signal, 250).text
    assert "not measurable" in read(np.zeros((12, 2500), np.float32), 250).text


def test_the_line_says_what_the_report_says():
    source = Synthetic(num_patients=10, rate=250, seed=5, artefacts=False, rhythms=("sinus_rhythm",))
    for key in source.keys():
        record = source.read(key)
        truth = record.metadata["measurements"]
        found = FeaturesRepresentation(items=("rate", "pr"))(record.signal, 250)
        assert len(found.token_ids) == 0 and found.tensor is None
        rate, pr = (float(part.split()[-2]) for part in found.text.rstrip(".").split(". "))
        assert rate == pytest.approx(truth["heart_rate"], abs=1) and pr == pytest.approx(truth["pr_ms"], abs=16)


def test_it_is_rebuilt_from_its_config():
    made = FeaturesRepresentation(items=("rate", "st"), qtc="fridericia", unmeasured="omit", decimals=1)
    again = build_representation(made.config())
    assert again.config() == made.config() and again.config()["name"] == "features"
    assert made.input_shape is None and made.added_tokens == () and made.placeholder is None
    with pytest.raises(ConfigError, match="colour"):
        build_representation({"name": "features", "colour": 1})


@pytest.mark.parametrize(
    ("options", "what"),
    [({"items": ("rat",)}, "did you mean|rate"), ({"items": ()}, "at least one"), ({"items": ("pr", "pr")}, "twice")],
)
def test_wrong_options_are_refused(options, what):
    with pytest.raises(EcglmError, match=what):
        FeaturesRepresentation(**options)
    with pytest.raises(EcglmError, match="decimals"):
        FeaturesRepresentation(decimals=9)


def test_an_elm_without_encoder_and_ecg_tokens_trains_reads_the_line_and_answers(world, tmp_path):
    from ecglm.models.checkpoint import from_pretrained
    from ecglm.prompts.data import EcgSource
    from ecglm.store.reader import SegmentStore
    from ecglm.training.recipe import Recipe
    from ecglm.training.run import train

    base = world.recipe(max_steps=4)
    model = dataclasses.replace(base.model, encoder_options={}, max_len=600)
    recipe = Recipe(
        name="line", data=base.data, features=FeaturesOptions(items=("rate", "qrs")), model=model, train=base.train
    )
    run = train(recipe, tmp_path / "run", say=lambda text: None)
    bundle = from_pretrained(run.best)
    assert bundle.elm.encoder is None and bundle.elm.connector is None and bundle.prompter.ecg_ids == ()
    store = SegmentStore(world.store)
    conversation = next(c for c in world.conversations() if len(c.ecgs) == 1)
    source = EcgSource([store], bundle.representation)
    example = bundle.prompter.build("x", conversation.turns[:1], [source.encode(conversation.ecgs[0])], generate=True)
    shown = bundle.prompter.tokenizer.decode(example.input_ids)
    line = source.encode(conversation.ecgs[0]).text
    assert line in shown and line.startswith("Heart rate ") and example.ecg is None
    assert (example.labels == -100).all()
    empty = bundle.representation(np.zeros_like(source.segment(conversation.ecgs[0])), store.rate)
    assert empty.text == "Heart rate not measurable. QRS not measurable."
