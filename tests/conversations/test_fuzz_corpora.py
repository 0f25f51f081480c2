"""Mutated corpora: whatever is done to a file, mapping ends in counts that reconcile or in one clear line."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from official_files import EXAMS, IndexOnly, splits, write_corpora

from ecglm import registry
from ecglm.conversations.make import takes_splits
from ecglm.conversations.table import iter_conversations, write_conversations
from ecglm.errors import EcglmError
from ecglm.files import read_jsonl

ROUNDS = 110  # of each of eleven corpora
HOSTILE = (
    *(None, True, 0, -1, 1.5, 10**30, "", " ", "\ud800", "a\0b", "NaN", [], {}, [[]], [None], {"from": 1}, "<ecg>"),
    *("<image>" * 3, "x" * 5000, "../../etc/passwd", "mimic/-0.png", "\u202e\u0308", ["a", "b"], ["a", 1], [["a"]]),
    *({"question": "q", "answer": None}, "human", "gpt", "-", "/", "_", "\u0661\u0662", "1" * 400, str(EXAMS[0])),
)
INJURIES = (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"]", b"}", b"[" * 3000, b"NaN", b"1e999", b"\n\n", b"\\u")


def places(value, path=()):
    """The path of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def mutated(items, rng: np.random.Generator):
    items = copy.deepcopy(items)
    for _ in range(int(rng.integers(1, 4))):
        paths = list(places(items))
        *up, last = paths[int(rng.integers(len(paths)))]
        place = items
        for key in up:
            place = place[key]
        kind = rng.integers(4)
        if kind == 0:
            del place[last]
        elif kind == 1 and isinstance(place, list):
            place.insert(int(rng.integers(len(place) + 1)), copy.deepcopy(place[last]))
        else:
            place[last] = HOSTILE[int(rng.integers(len(HOSTILE)))]
        if not items:
            break
    return items


def injured(data: bytes, rng: np.random.Generator) -> bytes:
    at, to = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    word = INJURIES[int(rng.integers(len(INJURIES)))]
    kind = rng.integers(3)
    return data[:at] if kind == 0 else data[:at] + word + data[at + 1 :] if kind == 1 else data[:at] + word + data[to:]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("corpus", [name for name in registry.names("conversations") if name != "labels"])
def test_every_mutation_ends_well(tmp_path, roots, corpus, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # waits for the disk, a thousand times
    rng = np.random.default_rng([7, *corpus.encode()])
    mapper, ends = registry.get("conversations", corpus), {"mapped": 0, "refused": 0}
    name, lines = "0.json", False
    if corpus.startswith("ecg-qa"):
        part = "ptbxl" if corpus == "ecg-qa-ptbxl" else "mimic-iv-ecg"
        good = json.loads((roots[corpus] / "ecgqa" / part / "template" / "train" / "0.json").read_text())
        name = f"template/train/{name}"
    elif corpus == "ecg-reasoning":
        good = [json.loads(line) for line in (roots[corpus] / "ptbxl.jsonl").read_text().splitlines()]
        name, lines = "a.jsonl", True
    elif corpus == "ecgbench":
        said = [{"from": "human", "value": list("Is it?")}, {"from": "gpt", "value": ["yes", "no"]}]
        good = [{"id": n, "image_path": f"{n:05d}_hr-0.png", "conversations": said} for n in range(1, 13)]
        name = "ecgqa-test.json"
    else:
        good = json.loads(next(p for p in roots[corpus].rglob("*.json") if _is_of(p, corpus)).read_text())
    for number in range(ROUNDS):
        items = mutated(good[: int(rng.integers(1, 8))], rng)
        text = "".join(json.dumps(i) + "\n" for i in items) if lines else json.dumps(items)
        data = injured(text.encode(), rng) if rng.random() < 0.3 else text.encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        options = {"splits": splits()} if takes_splits(corpus) else {}
        root = tmp_path if name.endswith(("train/0.json", "ecgqa-test.json")) else path
        out = tmp_path / f"{number}.parquet"
        try:
            manifest = write_conversations(out, mapper(IndexOnly(), root=root, **options), {}, {})
        except EcglmError as error:
            ends["refused"] += 1
            assert "\n" not in str(error) and len(str(error)) < 700 and not out.exists()
            continue
        ends["mapped"] += 1
        counts = manifest["counts"]
        assert counts["in"] == sum(n for reason, n in counts.items() if reason != "in")
        listed = read_jsonl(f"{out}.rejects.jsonl") + read_jsonl(f"{out}.set_aside.jsonl")
        assert counts["in"] == counts["mapped"] + len(listed)
        assert sum(1 for _ in iter_conversations(out)) == counts["mapped"]
    assert min(ends.values()) > 5, ends


def _is_of(path: Path, corpus: str) -> bool:
    names = {
        "pretrain-mimic": "pretrain_mimic.json",
        "ecg-instruct-45k": "ecg_instruct_45k.json",
        "ecg-grounding": "grounding_train_30k.json",
        "ecg-grounding-pulse": "ECG_Grounding_30k.json",
        "ecg-grounding-test": "ecg-grounding-test.json",
    }
    return path.name == names.get(corpus, path.name)
