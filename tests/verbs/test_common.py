"""verbs/common.py: words of the command line as typed options, and what is reused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.store.reader import SegmentStore
from ecglm.verbs.common import function_options, is_made, segment_of, split_options


@dataclass
class Source:
    root: str = ""
    resolution: str = "500"
    leads: tuple[str, ...] = ()
    skip: bool = False


@dataclass
class Pipeline:
    rate: int = 250
    low: float = 0.5
    notch: float | None = None


def test_words_become_the_types_of_their_fields_on_their_side() -> None:
    given = ("resolution=100", "leads=I,V1", "skip=true", "rate=500", "low=1", "notch=50.5")
    source, pipeline = split_options(Source, Pipeline, given)
    assert source == {"resolution": "100", "leads": ("I", "V1"), "skip": True}
    assert pipeline == {"rate": 500, "low": 1.0, "notch": 50.5} and isinstance(pipeline["low"], float)
    assert split_options(Source, Pipeline, ()) == ({}, {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rat=500", r"--set rat=500: no option 'rat' \(did you mean 'rate'\?\); KEY=VALUE with rate, low"),
        ("rate", r"--set rate: no option 'rate'.*KEY=VALUE"),
        ("rate=fast", r"--set rate=fast: rate must be a whole number"),
        ("rate=1.5", r"rate must be a whole number"),
        ("root=/x", r"no option 'root'"),  # a source's folder has an option of its own
    ],
)
def test_a_mistake_is_one_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        split_options(Source, Pipeline, (text,))
    assert "\n" not in str(error.value)


def test_options_of_a_function() -> None:
    hints = {"limit": int | None, "names": tuple[str, ...]}
    assert function_options({"limit": None, "names": ()}, hints, ("limit=3", "names=a,b")) == {
        "limit": 3,
        "names": ("a", "b"),
    }
    with pytest.raises(ConfigError, match=r"limit must be a whole number or empty"):
        function_options({"limit": None}, hints, ("limit=x",))
    with pytest.raises(ConfigError, match="there is none to set"):
        function_options({}, {}, ("limit=3",))


def test_what_is_made_already(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not is_made(out, "a", Path.read_text, overwrite=False)
    out.write_text("a")
    assert is_made(out, "a", Path.read_text, overwrite=False)
    assert not is_made(out, "a", Path.read_text, overwrite=True)
    with pytest.raises(StaleOutputError, match="use --overwrite, or another --out"):
        is_made(out, "b", Path.read_text, overwrite=False)


def test_a_segment_by_its_place(world) -> None:
    store = SegmentStore(world.store)
    segment, rate = segment_of(world.store, 2)
    assert (segment == store[2]).all() and rate == store.rate
    for position in (-1, len(store)):
        with pytest.raises(EcglmError, match=f"no segment {position}; it holds 0 to {len(store) - 1}"):
            segment_of(world.store, position)
