"""faiss' lists: recall, exclusions, no hit that is none, the same bytes, and damage told."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError, TornOutputError
from ecglm.retrieval.approximate import Approximate
from ecglm.retrieval.index import Exclude, Index, build_index
from ecglm.retrieval.nearest import exact_search
from index_world import RATE, quiet

faiss = pytest.importorskip("faiss")
NONE = np.empty(0, np.int64)


def clustered(num: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, num // 100), dim))
    return (centres[rng.integers(0, len(centres), num)] + 0.5 * rng.standard_normal((num, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def many():
    vectors = clustered(6000, 32)
    return vectors, *Approximate.build(vectors)


def test_recall_is_what_was_asked_for_and_what_was_told(many):
    vectors, made, facts = many
    queries = clustered(6000, 32)[:200] + np.float32(0.01)
    truth, found = (
        exact_search(vectors, queries, 10, [NONE] * 200),
        made.search(queries, 10, [NONE] * 200),
    )
    hit = np.mean([len(set(t[1]) & set(f[1])) / 10 for t, f in zip(truth, found, strict=True)])
    assert hit >= 0.95 and facts["recall_at_10"] >= 0.98
    assert facts["num_probes"] < facts["num_lists"]
    for (d, rows), query in zip(found, queries, strict=True):
        np.testing.assert_allclose(d, np.linalg.norm(vectors[rows].astype(float) - query, axis=1), rtol=1e-12)
        assert (np.diff(d) >= 0).all()


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1), k=st.integers(1, 100), seed=st.integers(0, 2**32 - 1), grouped=st.booleans())
def test_exclusion_always_leaves_k_hits_where_there_are_k(many, share, k, seed, grouped):
    vectors, made, _ = many
    rng = np.random.default_rng(seed)
    excluded = np.flatnonzero(rng.random(len(vectors)) < share)
    groups = rng.integers(0, 150, len(vectors)) if grouped else None
    ((distances, rows),) = made.search(vectors[:1], k, [excluded], groups)
    left = np.setdiff1d(np.arange(len(vectors)), excluded)
    assert len(rows) == min(k, len(left) if groups is None else len(np.unique(groups[left])))
    assert len(set(rows.tolist())) == len(rows) == len(distances)
    assert not set(rows.tolist()) & set(excluded.tolist()) and (rows >= 0).all()


def test_d23_minus_one_never_becomes_a_record():
    """One list is open, it holds fewer than are wanted: faiss answers -1, and the rest is searched exactly."""
    vectors = clustered(400, 8)
    made, _ = Approximate.build(vectors)
    made.num_probes = 1
    _, raw = made.lists.search(vectors[:1], 300, params=faiss.SearchParametersIVF(nprobe=1))
    assert (raw == -1).any()
    assert (
        made.search(vectors[:1], 300, [NONE])[0][1].tolist()
        == exact_search(vectors, vectors[:1], 300, [NONE])[0][1].tolist()
    )


def test_same_vectors_same_bytes(tmp_path, many):
    vectors, made, facts = many
    again, told = Approximate.build(vectors)
    made.write(tmp_path / "a")
    again.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and told == facts


@pytest.fixture(scope="module")
def forced(people_store, tmp_path_factory) -> Index:
    return build_index([people_store.path], tmp_path_factory.mktemp("forced") / "index", approximate=True, say=quiet)


def test_d23_a_forced_approximate_index_finds_what_the_exact_one_finds(people_store, people_index, forced):
    rows = people_store.index.to_pylist()
    own = [Exclude(frozenset({r["record_id"]}), frozenset({r["patient_id"]})) for r in rows]
    assert forced.manifest["approximate"]["recall_at_10"] >= 0.98 and forced.facts["approximate"]
    assert forced.vectors.tobytes() == people_index.vectors.tobytes()
    a, b = (i.search(people_store[:], RATE, k=40, exclude=own) for i in (people_index, forced))
    assert a == b
    for row, hits in zip(rows, b, strict=True):
        assert row["patient_id"] not in {n.patient_id for n in hits}


def test_a_cut_flipped_or_foreign_faiss_file_is_told(tmp_path, forced, many):
    shutil.copytree(forced.path, tmp_path / "index")
    file = tmp_path / "index" / "index.faiss"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", whole[:-4] + bytes([whole[-4] ^ 8]) + whole[-3:]):
        file.write_bytes(damaged)
        with pytest.raises(TornOutputError, match=r"index\.faiss"):
            Index.load(tmp_path / "index")
        with pytest.raises(TornOutputError, match=r"index\.faiss") if len(damaged) < len(whole) else _nothing():
            Index.load(tmp_path / "index", verify=False)  # its size is checked all the same
    facts = forced.manifest["approximate"]
    file.write_bytes(whole[:200])
    with pytest.raises(TornOutputError, match="cannot be read by faiss"):
        Approximate.read(file, forced.vectors, facts)
    many[1].write(file)
    with pytest.raises(TornOutputError, match=f"not over the {len(forced)} vectors"):
        Approximate.read(file, forced.vectors, facts)


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *told):
        return False


def test_without_faiss_the_mend_is_told(tmp_path, people_store, forced, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (
        lambda: build_index([people_store.path], tmp_path / "index", approximate=True, say=quiet),
        lambda: Index.load(forced.path),
    ):
        with pytest.raises(EcglmError, match=r"pip install 'ecglm\[rag\]'"):
            call()
    assert not (tmp_path / "index").exists(), "told before any work"


def test_many_vectors_decide_for_faiss(tmp_path, people_store, monkeypatch):
    monkeypatch.setattr("ecglm.retrieval.index.MANY", 10)
    index = build_index([people_store.path], tmp_path / "auto", say=quiet)
    assert index.facts["approximate"] and "searched approximately" in index.told()
    exact = build_index([people_store.path], tmp_path / "exact", approximate=False, say=quiet)
    assert not exact.facts["approximate"]
