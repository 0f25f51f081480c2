"""Signal2Vec's table: counts by hand, vectors by numpy's own decomposition, and symbols that keep the same company."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import ConfigError, EcglmError
from ecglm.models.checkpoint import from_pretrained
from ecglm.models.encoders.base import build_encoder
from ecglm.models.encoders.signal2vec import Signal2Vec, neighbours, symbol_names, symbol_vectors
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore
from ecglm.training.run import train


def corpus(number: int = 60, length: int = 80, num_symbols: int = 12, seed: int = 0) -> list[np.ndarray]:
    """Symbols 0-3 stand among 4-7, and 8-11 among themselves."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(number):
        if row % 2:
            rows.append(rng.integers(8, num_symbols, length))
        else:
            rows.append(np.stack([rng.integers(0, 4, length // 2), rng.integers(4, 8, length // 2)], 1).ravel())
    return rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), max_size=12), min_size=1, max_size=3), st.integers(1, 4))
def test_counts_are_pairs_within_the_window_of_one_lead(ecgs: list[list[int]], window: int) -> None:
    expected = np.zeros((6, 6))
    for ids in ecgs:
        for i in range(len(ids)):
            for j in range(len(ids)):
                between = ids[min(i, j) : max(i, j) + 1]
                if i != j and abs(i - j) <= window and all(s < 6 for s in between):  # 6, 7: names of leads
                    expected[ids[i], ids[j]] += 1
    found = neighbours([np.array(ids, np.int64) for ids in ecgs], 6, window)
    np.testing.assert_array_equal(found.toarray(), expected)


def test_vectors_are_the_leading_factor_of_the_positive_mutual_information() -> None:
    counts = neighbours(corpus(), 14, 3)  # 12 and 13 are never seen
    dense = counts.toarray()
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(dense * dense.sum() / np.outer(dense.sum(0), dense.sum(1)))
    ppmi = np.where(dense > 0, np.maximum(pmi, 0), 0)
    left, singular, _ = np.linalg.svd(ppmi)
    expected = left[:, :5] * np.sqrt(singular[:5])
    expected /= np.sqrt((expected[:12] ** 2).mean())
    found = symbol_vectors(counts, 5)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)  # a column's sign is free
    strongest = np.abs(found).argmax(axis=0)
    assert (found[strongest, np.arange(5)] > 0).all() and not found[12:].any()
    assert abs(float((found[:12] ** 2).mean()) - 1) < 1e-5


def test_symbols_with_the_same_neighbours_are_alike() -> None:
    found = symbol_vectors(neighbours(corpus(), 12, 1), 4)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = unit @ unit.T
    groups = [range(0, 4), range(4, 8), range(8, 12)]
    same = [cosines[i, j] for g in groups for i in g for j in g if i != j]
    other = [cosines[i, j] for g in groups for h in groups if g != h for i in g for j in h]
    assert min(same) > 0.9 and max(other) < 0.3


def test_the_same_ecgs_give_the_same_bytes() -> None:
    tables = []
    for _ in range(2):
        made = Signal2Vec(num_symbols=12, dim=5)
        assert made.learn(corpus()) == 0
        tables.append(made.table.numpy().tobytes())
    assert tables[0] == tables[1]
    made = Signal2Vec(num_symbols=15, dim=5)
    assert made.learn(corpus()) == 3  # never seen
    assert list(made.parameters()) == [] and set(made.state_dict()) == {"table"}


def test_projected_vectors_stand_at_the_symbols_and_nowhere_else() -> None:
    made = Signal2Vec(num_symbols=12, dim=5)
    made.learn(corpus())
    made.bind(range(100, 112), 120)
    torch.manual_seed(0)
    project, embedded = torch.nn.Linear(5, 7), torch.randn(2, 4, 7)
    ids = torch.tensor([[3, 100, 111, 4], [5, 99, 112, 105]])
    found = made.put(embedded, ids, project)
    for row, column in np.ndindex(2, 4):
        token = int(ids[row, column])
        if 100 <= token < 112:
            wanted = project(made.table[token - 100])
        else:
            wanted = embedded[row, column]
        torch.testing.assert_close(found[row, column], wanted)
    torch.testing.assert_close(made.rows(project)[5], found[1, 3])
    assert torch.equal(made.put(embedded, torch.zeros_like(ids), project), embedded)
    found.sum().backward()
    assert project.weight.grad is not None and project.weight.grad.any()


def test_names_of_leads_keep_their_own_rows() -> None:
    assert symbol_names(["signal_97", "signal_300", "<lead_I>", "<lead_II>"]) == ["signal_97", "signal_300"]


@pytest.mark.parametrize(
    "options, told",
    [({"dim": 12}, "between 1 and 11"), ({"dim": 0}, "dim"), ({"window": 0}, "window"), ({"k": 1}, "'k'")],
)
def test_bad_options_are_told(options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_encoder("signal2vec", input_shape=(12,), options=options)


def test_too_little_to_learn_from_is_told() -> None:
    for ecgs in ([], [np.array([3])], [np.array([1, 1, 1, 1])]):
        with pytest.raises(EcglmError, match="show more ECGs"):
            Signal2Vec(num_symbols=12, dim=3).learn(ecgs)
    with pytest.raises(ValueError, match="3 tokens for 12 symbols"):
        Signal2Vec(num_symbols=12, dim=3).bind([1, 2, 3], 20)


def test_training_fills_the_table_from_the_training_ecgs_and_leaves_it_alone(world) -> None:
    base = world.recipe(symbols=True, max_steps=2, eval_every=2)
    model = replace(base.model, encoder="signal2vec", encoder_options={"dim": 8, "window": 2}, connector="linear")
    result = train(replace(base, model=model), world.folder / "signal2vec", say=lambda line: None)
    bundle = from_pretrained(result.best)
    show = EcgSource([SegmentStore(world.store)], bundle.representation)
    records = {ecg for row in world.conversations("train") for ecg in row.ecgs}
    alone = Signal2Vec(num_symbols=len(symbol_names(bundle.representation.added_tokens)), dim=8, window=2)
    alone.learn(show.encode(record).token_ids for record in records)  # counts add up in any order
    table = bundle.elm.encoder.table
    assert torch.equal(table, alone.table) and table.any()
    ids = torch.tensor(bundle.prompter.tokenizer.convert_tokens_to_ids(["signal_97", "<lead_I>"]))[None]
    with torch.no_grad():
        found = bundle.elm.embed(ids)[0]
        torch.testing.assert_close(found[0], bundle.elm.connector.project(table[0]))
        torch.testing.assert_close(found[1], bundle.elm.llm.get_input_embeddings()(ids)[0, 1])
