"""store/population.py: who may be drawn, in an order that does not depend on how stores are cut."""

from __future__ import annotations

import numpy as np
import pytest
from sampling_fakes import make_store

from ecglm.errors import ConfigError, EcglmError
from ecglm.store.population import population, store_inputs

NAMES = [f"arrays/{n:02d}" for n in range(8)]


@pytest.fixture(scope="module")
def signals():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(12, 500)).astype(np.float32) for name in NAMES}


@pytest.fixture(scope="module")
def stores(signals, tmp_path_factory):
    """The same eight records of two segments each: in one store, and in two."""
    folder = tmp_path_factory.mktemp("population")
    facts = {"folds": {name: 10 if name in NAMES[6:] else 1 for name in NAMES}, "flags": {NAMES[0]: ["flat"]}}
    facts["metadata"] = {NAMES[1]: {"unit_confidence": "nominal"}, NAMES[2]: {"note": "nominal"}}
    part = [{n: signals[n] for n in names} for names in (NAMES[5:], NAMES[:5])]
    return (
        make_store(folder / "all", signals, **facts),
        [make_store(folder / f"part{i}", chosen, **facts) for i, chosen in enumerate(part)],
    )


def test_one_store_or_two_give_the_same_in_the_same_order(stores, signals):
    whole, parts = stores
    one, other = population(whole), population(parts)
    assert len(one) == 12  # six training records of two segments; fold 10 is the test fold
    assert one.segment_ids.tolist() == sorted(one.segment_ids.tolist()) == other.segment_ids.tolist()
    assert one.record_ids.tolist() == other.record_ids.tolist() == [n for n in NAMES[:6] for _ in range(2)]
    assert set(other.store_of.tolist()) == {0, 1} and set(one.store_of.tolist()) == {0}
    assert one.settings == other.settings and (one.rate, one.dataset) == (250, "arrays")
    for found in (one, other):
        seen = {}
        for rows, segments in found.read(np.arange(len(found)), batch=5):
            assert segments.dtype == np.float32 and segments.shape[1:] == (12, 250)
            seen |= dict(zip(rows.tolist(), segments, strict=True))
        for row, segment in seen.items():
            half = slice(250 * (row % 2), 250 * (row % 2) + 250)
            np.testing.assert_allclose(segment, signals[found.record_ids[row]][:, half], atol=6e-4)  # whole microvolts
        assert sorted(seen) == list(range(12))


def test_splits_flags_and_units(stores):
    whole, _ = stores
    assert set(population(whole, split="test").record_ids) == set(NAMES[6:])
    clean = population(whole, without_flags=["flat"])
    assert NAMES[0] not in clean.record_ids and clean.flagged == 2
    found = population(whole)
    assert set(found.record_ids[found.nominal]) == {NAMES[1]}  # a note that holds the word is none
    own = {f"{name}-patient": "val" if name == NAMES[3] else "train" for name in NAMES}
    assert set(population(whole, split="val", splits=own).record_ids) == {NAMES[3]}


def test_the_inputs_do_not_depend_on_the_order_of_the_stores(stores):
    _, parts = stores
    assert store_inputs(parts) == store_inputs(parts[::-1]) == population(parts).inputs
    assert set(store_inputs(parts).values()) == {s.fingerprint for s in parts}


def test_mistakes(stores, signals, tmp_path):
    whole, parts = stores
    with pytest.raises(ConfigError, match=r"no 'tran' \(did you mean 'train'\?\)"):
        population(whole, split="tran")
    with pytest.raises(ConfigError, match="at least one store"):
        population([])
    with pytest.raises(EcglmError, match=r"segment .* stands in two of the stores"):
        population([whole, parts[0]])
    with pytest.raises(EcglmError, match="arrays/00-patient has no split in the splits given"):
        population(whole, splits={"other": "train"})
    with pytest.raises(EcglmError, match=r"no segments of the split 'val' to draw from$"):
        population(whole, split="val", splits={f"{n}-patient": "train" for n in NAMES})
    slow = make_store(tmp_path / "slow", {"arrays/99": signals[NAMES[0]]}, rate=125)
    with pytest.raises(EcglmError, match=r"125 Hz, .* has 250 Hz; prepare them at one rate"):
        population([whole, slow])
