"""Preference files: every format becomes the pairs it means, and every row is in a pair or counted with its reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.training.preferences import read_pairs
from preference_world import row, write

ASKED = [{"role": "user", "content": "Rhythm?"}]
SAYS = {name: [{"role": "assistant", "content": name}] for name in ("good", "bad")}


def read(tmp_path: Path, *rows: dict):
    return read_pairs([write(tmp_path / "p.jsonl", list(rows))])


def texts(found) -> list[tuple[str, str]]:
    return [(p.chosen, p.rejected) for p in found.pairs]


def reasons(found) -> Counter:
    return Counter(r["reason"] for r in found.refused)


def test_a_comparison_is_a_pair(tmp_path: Path) -> None:
    kept = [{"record": "a/1", "store": "s", "file": None, "sha256": "0" * 64, "rate": 100, "segment": 0}]
    found = read(tmp_path, row("x", chosen=" good ", rejected="bad", ecgs=kept, people=["12", "3"], split="train"))
    (pair,) = found.pairs
    assert (pair.id, pair.source, pair.chosen, pair.rejected, pair.people) == ("x", "compare", "good", "bad", (3, 12))
    assert (pair.turns[-1].role, pair.turns[-1].text) == ("user", "<ecg>\nRhythm?")
    assert (pair.ecgs[0].record, pair.ecgs[0].rate) == ("a/1", 100)
    assert found.counts() == {"rows": 1, "paired": 1}


def test_a_correction_is_preferred_to_what_it_corrects(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        row("x", source="correction", chosen="good", rejected="bad"),
        row("y", source="correction", chosen="good", answer="bad"),
    )
    assert texts(found) == [("good", "bad")] * 2


def test_thumbs_make_all_pairs_of_liked_and_not_liked(tmp_path: Path) -> None:
    def thumb(name: str, value: int | None, answer: str, question: str = "Rhythm?", sha: str = "1" * 64) -> dict:
        return row(name, question, source="thumbs", thumb=value, answer=answer, ecgs=[{"record": "", "sha256": sha}])

    found = read(
        tmp_path,
        *(thumb(f"u{i}", 1, f"up {i}") for i in range(2)),
        *(thumb(f"d{i}", -1, f"down {i}") for i in range(3)),
        thumb("alone", 1, "up", "Axis?"),
        thumb("other ecg", -1, "down", sha="2" * 64),
        thumb("nothing", None, "said"),
        thumb("liked", 1, "same", "Rate?"),
        thumb("not liked", -1, "same", "Rate?"),
    )
    assert sorted(texts(found)) == [(f"up {u}", f"down {d}") for u in range(2) for d in range(3)]
    assert found.pairs[0].id == "u0>d0"
    assert reasons(found) == {"no_pair": 3, "equal_texts": 2}
    assert (found.num_rows, found.paired_rows) == (10, 5)


def test_a_later_row_of_the_same_id_takes_its_place(tmp_path: Path) -> None:
    rows = [row("x", source="thumbs", thumb=value, answer="up") for value in (1, -1)]
    found = read(tmp_path, *rows, row("x", source="thumbs", thumb=1, answer="up"), row("y", thumb=-1, answer="down"))
    assert texts(found) == [("up", "down")]
    assert reasons(found) == {"replaced": 2}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chosen": "same", "rejected": " same\n"}, "equal_texts"),
        ({"chosen": " ", "rejected": "bad"}, "empty"),
        ({"chosen": "good", "rejected": ""}, "empty"),
        ({"chosen": "good"}, "no_pair"),
        ({}, "no_pair"),
        ({"thumb": 1}, "empty"),
        ({"turns": [], "chosen": "good", "rejected": "bad"}, "empty"),
        ({"turns": [{"role": "assistant", "text": "Hi"}], "chosen": "good", "rejected": "bad"}, "empty"),
        ({"chosen": "go\0od", "rejected": "bad"}, "bad_characters"),
        ({"chosen": "\ud800", "rejected": "bad"}, "bad_characters"),
        ({"chosen": "a" * ((1 << 20) + 1), "rejected": "bad"}, "answer_too_long"),
    ],
)
def test_what_is_no_pair_is_counted_with_its_reason(tmp_path: Path, fields: dict, reason: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in (row("x", **fields), row("y", chosen="good", rejected="bad"))))
    found = read_pairs([file])
    assert [p.id for p in found.pairs] == ["y"]
    assert found.counts() == {"rows": 2, "paired": 1, f"rejected:{reason}": 1}
    assert "line 1" in found.refused[0]["detail"]


@pytest.mark.parametrize(
    ("given", "question"),
    [
        ({"prompt": "Rhythm?", "chosen": "good", "rejected": "bad"}, "Rhythm?"),
        ({"chosen": "Rhythm? good", "rejected": "Rhythm? bad"}, "Rhythm?"),
        ({"prompt": ASKED, "chosen": SAYS["good"], "rejected": SAYS["bad"]}, "Rhythm?"),
        ({"chosen": ASKED + SAYS["good"], "rejected": ASKED + SAYS["bad"]}, "Rhythm?"),
    ],
    ids=["string explicit", "string implicit", "messages explicit", "messages implicit"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_trls_formats(tmp_path: Path, given: dict, question: str, suffix: str) -> None:
    file = tmp_path / f"trl{suffix}"
    rows = [given, {**given, "ecgs": ["a/1"], "split": "train"}]
    if suffix == ".jsonl":
        write(file, rows)
    else:
        pq.write_table(
            pa.Table.from_pylist([{**r, "ecgs": r.get("ecgs"), "split": r.get("split")} for r in rows]), file
        )
    found = read_pairs([file])
    assert texts(found) == [("good", "bad")] * 2
    assert [[(t.role, t.text) for t in p.turns] for p in found.pairs] == [[("user", question)]] * 2
    assert [e.record for e in found.pairs[1].ecgs] == ["a/1"] and found.pairs[0].id == "trl:1"


def test_a_talk_in_messages_keeps_its_earlier_turns(tmp_path: Path) -> None:
    ahead = [{"role": "system", "content": "Be brief."}, *ASKED, *SAYS["good"], {"role": "user", "content": "And?"}]
    found = read(tmp_path, {"chosen": ahead + SAYS["good"], "rejected": ahead + SAYS["bad"]})
    assert [t.role for t in found.pairs[0].turns] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"version": 2}, "version 2, this ecglm reads 1"),
        (
            {"prompt": "a"},
            "'chosen' must be text or a list of messages, found nothing; a row of the chat has 'version'",
        ),
        ({"prompt": "a", "chosen": SAYS["good"], "rejected": SAYS["bad"]}, "must all be texts, or all lists"),
        ({"prompt": ASKED, "chosen": ASKED, "rejected": SAYS["bad"]}, "'chosen' must add one assistant's message"),
        (row("x", thumb=2), "'thumb' must be 1, -1 or null, found 2"),
        (row("x", thumb=True), "'thumb' must be 1, -1 or null, found True"),
        (row("x", split="training"), "'split' must be one of train, val, test or empty, found 'training'"),
        (row("x", people=["me"]), "'people' must be a list of hashes"),
        (row("x", people=[1.5]), "'people' must be a list of hashes"),
        (row("x", people=[str(1 << 64)]), "'people' must be hashes of 64 bits"),
        (row("x", chosen=3), "'chosen' must be text, found int"),
        (row("x", turns=[{"role": "doctor", "text": ""}]), "a turn's role must be one of system, user, assistant"),
        (row("x", turns=[{"role": "user"}]), "a turn's 'text' must be text, found NoneType"),
        (row("x", ecgs=[{"record": "a", "sha256": "zz"}]), "'sha256' must be 64 hexadecimal digits"),
        (row("x", ecgs=[3]), "each of 'ecgs' must be a record id, or an object"),
    ],
)
def test_a_row_of_neither_format_is_told_with_its_line(tmp_path: Path, given: dict, told: str) -> None:
    file = write(tmp_path / "p.jsonl", [row("ok", chosen="good", rejected="bad"), given])
    with pytest.raises(EcglmError) as error:
        read_pairs([file])
    assert str(error.value).startswith(f"{file}, line 2") and told in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_broken(tmp_path: Path) -> None:
    with pytest.raises(EcglmError, match="no such preference file"):
        read_pairs([tmp_path / "none.jsonl"])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(EcglmError, match="cannot be read as Parquet"):
        read_pairs([tmp_path / "broken.parquet"])
    (tmp_path / "torn.jsonl").write_text('{"version": 1, ')
    with pytest.raises(EcglmError, match="line 1: not valid JSON"):
        read_pairs([tmp_path / "torn.jsonl"])


ANSWERS = st.sampled_from(["a", "b", "c", "", None])
ROWS = st.lists(
    st.builds(
        lambda number, question, values, thumb: row(str(number), question, thumb=thumb, **values),
        st.integers(0, 30),
        st.sampled_from(["Rhythm?", "Axis?"]),
        st.fixed_dictionaries({"chosen": ANSWERS, "rejected": ANSWERS, "answer": ANSWERS}),
        st.sampled_from([1, -1, None]),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, refuse=st.sets(st.integers(0, 30)))
def test_rows_are_paired_or_refused_and_never_lost(tmp_path_factory, rows, refuse) -> None:
    file = write(tmp_path_factory.mktemp("rows") / "p.jsonl", rows)

    def usable(found) -> None:
        if int(found.id) in refuse:
            raise RejectedRecord("no", found.where)

    found = read_pairs([file], usable)
    assert found.num_rows == len(rows) == found.paired_rows + len(found.refused)
    assert all(p.chosen != p.rejected and p.chosen and p.rejected for p in found.pairs)
    assert not {int(i) for p in found.pairs for i in p.id.split(">")} & refuse
