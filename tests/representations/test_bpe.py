"""The incremental trainer against a plain-Python reference that recounts all pairs for each merge."""

import heapq
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError
from ecglm.representations import bpe
from ecglm.representations.bpe import train_merges


def replace(sequence, pair, new):
    """Every occurrence of the pair, left to right, without overlap."""
    out, i = [], 0
    while i < len(sequence):
        if tuple(sequence[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(sequence[i])
            i += 1
    return out


def reference_merges(sequences, num_merges, min_count):
    """BPE by the book: count all pairs anew for each merge."""
    sequences, merges = [list(s) for s in sequences], []
    for index in range(num_merges):
        counts = Counter(pair for s in sequences for pair in pairwise(s))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair[0], pair[1]))
        if counts[best] < min_count:
            break
        merges.append(best)
        sequences = [replace(s, best, 256 + index) for s in sequences]
    return merges


def as_arrays(sequences):
    return [np.frombuffer(bytes(s), np.uint8) for s in sequences]


def train(sequences, num_merges, min_count=2):
    return [tuple(pair) for pair in train_merges(as_arrays(sequences), num_merges, min_count=min_count).tolist()]


# few symbols and runs of equal ones: where counts kept up to date go wrong first
runs = st.lists(st.tuples(st.integers(97, 100), st.integers(1, 9)), max_size=25).map(
    lambda parts: b"".join(bytes([symbol]) * number for symbol, number in parts)
)
few = st.binary(max_size=80).map(lambda b: bytes(97 + x % 3 for x in b))
corpora = st.lists(st.one_of(runs, few, st.binary(max_size=12)), max_size=5)


#: Where sweeps give way to links: nowhere, after a few, as it is, at once. Small texts would see sweeps alone.
RARE = (1 << 40, 12, bpe._RARE, 0)


@pytest.mark.parametrize("rare", RARE)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora, st.integers(0, 60), st.integers(1, 4))
def test_d32_merges_equal_the_reference_that_recounts(monkeypatch, rare, sequences, num_merges, min_count):
    monkeypatch.setattr(bpe, "_RARE", rare)
    assert train(sequences, num_merges, min_count) == reference_merges(sequences, num_merges, min_count)
    joined = train_merges(as_arrays(sequences), num_merges, min_count=min_count, joined=True).tolist()
    assert list(map(tuple, joined)) == reference_merges([b"".join(sequences)], num_merges, min_count)


# alphabets of one to three symbols, runs long enough for whole blocks, ends and beginnings alike
alphabets = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.tuples(st.integers(97, 96 + n), st.integers(1, 70)), min_size=1, max_size=12)
)
adversarial = st.lists(
    alphabets.map(lambda parts: b"".join(bytes([symbol]) * number for symbol, number in parts)), max_size=4
)


@pytest.mark.parametrize("rare", RARE)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(adversarial, st.integers(1, 40), st.sampled_from([0, 70_000]))
def test_d32_long_runs_of_few_symbols_equal_the_reference(monkeypatch, rare, sequences, num_merges, wide):
    monkeypatch.setattr(bpe, "_RARE", rare)
    merges = train_merges(as_arrays(sequences), num_merges + wide, min_count=2).tolist()  # wide: cells of 32 bits
    expected = reference_merges(sequences, num_merges, 2)
    assert list(map(tuple, merges[:num_merges])) == expected
    assert len(merges) == num_merges or wide or len(merges) == len(expected)


@pytest.mark.parametrize("rare", RARE)
def test_merges_equal_the_reference_on_a_larger_corpus(monkeypatch, rare):
    monkeypatch.setattr(bpe, "_RARE", rare)
    rng = np.random.default_rng(7)
    walk = np.clip(np.cumsum(rng.integers(-1, 2, (4, 1500)), axis=1) % 26, 0, 25) + 97
    sequences = [bytes(row.astype(np.uint8)) for row in walk]
    merges = train(sequences, 250)
    assert len(merges) == 250
    assert merges == reference_merges(sequences, 250, 2)


def test_overlapping_pairs_are_counted():
    # "aaaa" holds (a, a) three times, "bcbcbc" (b, c) three times: a tie, which (a, a) wins
    assert train([b"aaaa", b"bcbcbc"], 1) == [(97, 97)]
    assert train([b"aaaa"], 1, min_count=3) == [(97, 97)]
    assert train([b"aaaa"], 1, min_count=4) == []


def test_d32_ties_go_to_the_smallest_left_then_smallest_right_id():
    assert train([b"dcdc", b"abab", b"acac"], 1) == [(97, 98)]
    assert train([b"xyxy", b"xaxa"], 1) == [(120, 97)]
    assert train([b"xyxy", b"xaxa", b"pzpz"], 1) == [(112, 122)]
    assert train([b"zb", b"zb", b"za", b"za", b"yc", b"yc"], 3) == [(121, 99), (122, 97), (122, 98)]


def test_d32_no_merge_crosses_from_one_sequence_to_the_next():
    assert train([b"ab", b"ab"], 9) == [(97, 98)]
    assert train([b"a", b"b", b"a", b"b"], 9, min_count=1) == []


def test_d32_the_same_merges_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    corpus = [rng.integers(97, 103, 3000).astype(np.uint8) for _ in range(4)]
    alone = train_merges(corpus, 200).tolist()
    for workers in (2, 8):
        with ThreadPoolExecutor(workers) as pool:
            for result in pool.map(lambda _: train_merges(corpus, 200).tolist(), range(workers)):
                assert result == alone


@pytest.mark.parametrize("sequences", [[], [b""], [b"a"], [b"a", b"b"]])
def test_too_little_text_stops_early(sequences):
    assert train(sequences, 100) == []


def test_equal_symbols_stop_early():
    merges = train([b"a" * 1000], 100)
    assert merges == reference_merges([b"a" * 1000], 100, 2)
    assert 0 < len(merges) < 100


def test_progress_is_told_and_an_interrupt_leaves():
    calls = []
    train_merges(as_arrays([b"abcabcabdabe" * 20]), 10, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] <= 10
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_merges(as_arrays([b"abcabcabdabe" * 20]), 10, progress=stop)


@pytest.mark.parametrize("options", [{"num_merges": -1}, {"num_merges": 140_000}, {"num_merges": 5, "min_count": 0}])
def test_numbers_out_of_range_are_errors(options):
    with pytest.raises(EcglmError, match=r"num_merges|min_count"):
        train_merges(as_arrays([b"abab"]), **options)


def linked_merges(symbols, num_merges):
    """The same by dictionaries of positions and a heap, min_count 1: a second reference, for more merges."""
    after = {i: i + 1 for i in range(len(symbols) - 1)}
    before = {i + 1: i for i in after}
    sym, places = dict(enumerate(symbols)), {}
    for i, j in after.items():
        places.setdefault((sym[i], sym[j]), set()).add(i)
    heap = [(-len(found), *pair) for pair, found in places.items()]
    heapq.heapify(heap)
    merges = []

    def change(pair, place, there):
        found = places.setdefault(pair, set())
        (found.add if there else found.discard)(place)
        heapq.heappush(heap, (-len(found), *pair))

    while heap and len(merges) < num_merges:
        count, *pair = heapq.heappop(heap)
        pair = tuple(pair)
        if count == 0 or -count != len(places[pair]):
            continue
        new = 256 + len(merges)
        merges.append(pair)
        for i in sorted(places[pair]):
            if i not in places[pair]:
                continue  # swallowed in a run
            j = after[i]
            if i in before:
                change((sym[before[i]], sym[i]), before[i], False)
            if j in after:
                change((sym[j], sym[after[j]]), j, False)
            change(pair, i, False)
            sym[i] = new
            behind = after.pop(j, None)
            if behind is None:
                del after[i]
            else:
                after[i], before[behind] = behind, i
            del sym[j], before[j]
            if i in before:
                change((sym[before[i]], new), before[i], True)
            if i in after:
                change((new, sym[after[i]]), i, True)
    return merges


def test_the_second_reference_equals_the_first():
    rng = np.random.default_rng(3)
    for _ in range(20):
        text = bytes(np.repeat(rng.integers(97, 100, 40), rng.integers(1, 6, 40)).astype(np.uint8))
        assert linked_merges(text, 40) == reference_merges([text], 40, 1)


def test_ids_beyond_16_bits():
    text = np.random.default_rng(11).integers(0, 256, 84_000).astype(np.uint8)
    merges = train_merges([text], 67_000, min_count=1)
    assert len(merges) == 67_000
    assert merges.max() > 65_536
    assert list(map(tuple, merges.tolist())) == linked_merges(text.tolist(), 67_000)


def test_every_byte_may_occur():
    text = np.concatenate([np.arange(256), np.arange(256)]).astype(np.uint8)
    assert train([bytes(text)], 600) == reference_merges([bytes(text)], 600, 2)
