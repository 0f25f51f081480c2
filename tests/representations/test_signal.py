"""The signal representation: rows by name, anti-aliased rate, exact rebuild, clear refusals."""

import json

import numpy as np
import pytest

from ecglm import registry
from ecglm.errors import ConfigError, EcglmError
from ecglm.representations.base import BuildContext, build_representation, reduce_rate
from ecglm.representations.normalise import normalise
from ecglm.representations.signal import SignalRepresentation
from ecglm.store.percentiles import write_percentiles
from ecglm.types import LEADS


def segment(num_samples=2500):
    """Lead k holds the value k."""
    return np.repeat(np.arange(12, dtype=np.float32)[:, None], num_samples, axis=1)


def test_default_keeps_all_leads_in_millivolts():
    x = np.random.default_rng(0).normal(size=(12, 2500)).astype(np.float32)
    r = SignalRepresentation()
    out = r(x, 250)
    np.testing.assert_array_equal(out.tensor, x)
    assert out.tensor.dtype == np.float32
    assert out.tensor.shape == r.input_shape
    assert out.token_ids.tolist() == [0] * 25
    assert (r.added_tokens, r.placeholder, r.num_tokens) == (("<ecg_token>",), "<ecg_token>", 25)


def test_leads_are_chosen_by_name_in_the_order_asked():
    r = SignalRepresentation(leads=("V5", "II", "aVR"), num_samples=100)
    assert r.input_shape == (3, 100)
    assert r(segment(100), 250).tensor[:, 0].tolist() == [LEADS.index("V5"), 1, LEADS.index("aVR")]


@pytest.mark.parametrize("name", ["signal", "symbols"])
def test_percentiles_come_from_the_stores_file(name, tmp_path):
    kind = registry.get("representations", name)
    file = tmp_path / "p.json"
    facts = {"p1": -0.5, "p99": 1.25, "n_values": 100, "n_records": 3, "dataset": "x", "fs": 250, "seed": 0}
    made = {**facts, "fingerprint": "", "settings": {"split": "train"}, "inputs": {}}
    write_percentiles(file, made)
    rng = np.random.default_rng(0)
    segments = {f"r{k}": rng.normal(0, 0.4, (12, 500)).astype(np.float32) for k in range(3)}
    context = BuildContext(rate=250, seg_len=500, seed=0, records=tuple(segments), segment=segments.__getitem__)
    few = {"num_merges": 5} if name == "symbols" else {}
    options = kind.Options(normalise="percentile", percentiles=str(file), **few)
    assert options.files() == {"percentiles": str(file)} and kind.Options().files() == {}
    show = kind.from_recipe(options, context)
    if name == "symbols":
        assert (show.tokenizer.normalise, show.tokenizer.percentiles) == ("percentile", {"p1": -0.5, "p99": 1.25})
    else:
        x = np.full((12, 500), 0.375, np.float32)  # the middle of p1 - 0.5 and p99 + 0.5
        np.testing.assert_allclose(show(x, 250).tensor, 0.5, atol=1e-6)
    write_percentiles(file, {**made, "settings": {"split": "val"}})
    with pytest.raises(EcglmError, match="is of the split 'val'; only train may be learnt from"):
        kind.from_recipe(options, context)
    file.unlink()
    (tmp_path / "checkpoint").mkdir()
    show.save(tmp_path / "checkpoint")
    again = build_representation(json.loads(json.dumps(show.config())), tmp_path / "checkpoint")
    ours, theirs = again(segments["r0"], 250), show(segments["r0"], 250)
    np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)
    np.testing.assert_array_equal(ours.tensor, theirs.tensor)


@pytest.mark.parametrize("factor", [2, 5, 10])
def test_reducing_the_rate_keeps_what_fits_and_removes_what_would_fold(factor):
    rate, target = 500, 500 // factor
    t = np.arange(5000) / rate
    slow, fast = np.sin(2 * np.pi * 3.0 * t), np.sin(2 * np.pi * 0.8 * target * t)
    kept = reduce_rate(slow[None], rate, target)[0]
    expected = np.sin(2 * np.pi * 3.0 * np.arange(5000 // factor) / target)
    assert kept.shape == expected.shape
    inner = slice(target, -target)
    np.testing.assert_allclose(kept[inner], expected[inner], atol=5e-3)
    assert np.abs(reduce_rate(fast[None], rate, target)[0][inner]).max() < 0.01  # would fold to 0.2 x target


def test_reducing_the_rate_keeps_a_constant_up_to_its_ends():
    np.testing.assert_allclose(reduce_rate(segment(), 250, 50), segment(500), atol=2e-3 * 12)


def test_normalisation_is_the_one_of_the_option():
    x = np.random.default_rng(1).normal(size=(12, 200)).astype(np.float32)
    for mode in ("instance", "lead_zscore", "record_zscore"):
        r = SignalRepresentation(num_samples=200, normalise=mode)
        np.testing.assert_array_equal(r(x, 250).tensor, normalise(x, mode))
    r = SignalRepresentation(num_samples=200, normalise="percentile", percentiles=(-1.0, 1.0))
    np.testing.assert_array_equal(r(x, 250).tensor, normalise(x, "percentile", {"p1": -1.0, "p99": 1.0}))


@pytest.mark.parametrize(
    "representation",
    [
        SignalRepresentation(),
        SignalRepresentation(num_tokens=3, num_samples=500, rate=50, leads=("II", "V1"), normalise="lead_zscore"),
        SignalRepresentation(normalise="percentile", percentiles=(-0.5, 1.25), placeholder="<signal>"),
    ],
)
def test_config_goes_through_json_and_rebuilds(representation, tmp_path):
    assert representation.save(tmp_path) == []
    config = json.loads(json.dumps(representation.config()))
    assert build_representation(config) == representation
    assert build_representation(config, tmp_path).config() == config


def test_it_is_registered():
    assert registry.get("representations", "signal") is SignalRepresentation


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "name"),
        ({"name": "signl"}, "did you mean 'signal'"),
        ({"name": "signal", "num_token": 3}, "did you mean 'num_tokens'"),
        ({"name": "signal", "num_tokens": "3"}, "num_tokens"),
    ],
)
def test_a_config_with_unknown_keys_or_types_is_an_error(config, message):
    with pytest.raises(ConfigError, match=message):
        build_representation(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leads": ("II", "V7")}, "no lead 'V7'"),
        ({"leads": ()}, "at least one"),
        ({"leads": ("II", "II")}, "twice"),
        ({"num_tokens": 0}, "num_tokens"),
        ({"num_samples": 0}, "num_samples"),
        ({"normalise": "zscore"}, "lead_zscore"),
        ({"normalise": "percentile"}, "percentiles"),
        ({"placeholder": ""}, "placeholder"),
    ],
)
def test_options_that_make_no_sense_are_errors(options, message):
    with pytest.raises(EcglmError, match=message):
        SignalRepresentation(**options)


@pytest.mark.parametrize(
    ("x", "rate", "message"),
    [
        (np.zeros((11, 2500), np.float32), 250, "12, num_samples"),
        (np.zeros((2500, 12), np.float32), 250, "12, num_samples"),
        (np.zeros((12, 0), np.float32), 250, "12, num_samples"),
        (np.zeros(2500, np.float32), 250, "12, num_samples"),
        (np.zeros((12, 1250), np.float32), 250, "the segment has 250"),
        (np.zeros((12, 2500), np.float32), 120, "cannot reduce 120 Hz to 50 Hz"),
        (np.zeros((12, 2500), np.float32), 25, "cannot reduce 25 Hz to 50 Hz"),
        (np.full((12, 2500), np.nan, np.float32), 250, "NaN"),
    ],
)
def test_segments_that_do_not_fit_are_errors(x, rate, message):
    with pytest.raises(EcglmError, match=message):
        SignalRepresentation(rate=50, num_samples=500)(x, rate)
