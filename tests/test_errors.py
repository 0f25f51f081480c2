"""errors.py: one family, one line, the nearest name."""

from __future__ import annotations

import pickle

import pytest

from ecglm import errors
from ecglm.errors import EcglmError, RejectedRecord, nearest


def test_all_are_one_family():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, BaseException)]
    assert len(kinds) >= 6 and all(issubclass(k, EcglmError) for k in kinds)


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("prepair", ["prepare", "predict"], " (did you mean 'prepare'?)"),
        ("lr", {"lr_scale": 1, "lrr": 2}, " (did you mean 'lrr'?)"),
        ("zzz", ["prepare"], ""),
        ("x", [], ""),
    ],
)
def test_nearest(word, candidates, expected):
    assert nearest(word, candidates) == expected


def test_a_reject_has_a_code_and_words():
    reject = RejectedRecord("too_short", "3 samples")
    assert (reject.reason, reject.detail, str(reject)) == ("too_short", "3 samples", "too_short: 3 samples")
    assert str(RejectedRecord("flat")) == "flat"


def test_a_reject_survives_the_way_from_a_worker():
    back = pickle.loads(pickle.dumps(RejectedRecord("too_short", "3 samples")))
    assert (back.reason, back.detail) == ("too_short", "3 samples")
