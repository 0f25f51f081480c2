"""The greedy and the ranked encoder against plain-Python references that rescan the text; expansions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError
from ecglm.representations import bpe_encode
from ecglm.representations.bpe import train_merges
from ecglm.representations.bpe_encode import Expansions, GreedyEncoder, RankedEncoder, id_type


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


def reference_texts(merges):
    texts = [bytes([i]) for i in range(256)]
    for left, right in merges:
        texts.append(texts[left] + texts[right])
    return texts


def reference_greedy(text, merges):
    """At each position the longest expansion that matches; of equal ones the smallest id."""
    texts, out, i = reference_texts(merges), [], 0
    while i < len(text):
        best = max((k for k in range(len(texts)) if text.startswith(texts[k], i)), key=lambda k: (len(texts[k]), -k))
        out.append(best)
        i += len(texts[best])
    return out


def reference_ranked(text, merges):
    sequence = list(text)
    for index, pair in enumerate(merges):
        sequence = replace(sequence, tuple(pair), 256 + index)
    return sequence


def train(sequences, num_merges, min_count=2):
    return [
        tuple(pair)
        for pair in train_merges(
            [np.frombuffer(s, np.uint8) for s in sequences], num_merges, min_count=min_count
        ).tolist()
    ]


runs = st.lists(st.tuples(st.integers(97, 100), st.integers(1, 9)), max_size=25).map(
    lambda parts: b"".join(bytes([symbol]) * number for symbol, number in parts)
)
few = st.binary(max_size=80).map(lambda b: bytes(97 + x % 3 for x in b))
corpora = st.lists(st.one_of(runs, few, st.binary(max_size=12)), max_size=5)


#: The trie walked by its table of steps, and, as very large ones, node by node.
both_walks = pytest.mark.parametrize("max_table", [bpe_encode.MAX_TABLE, 0])
patched = [HealthCheck.function_scoped_fixture]


@both_walks
@settings(deadline=None, max_examples=100, suppress_health_check=patched)
@given(corpora, st.integers(0, 40), st.lists(st.one_of(runs, few, st.binary(max_size=30)), max_size=4))
def test_encoders_equal_the_naive_references_and_decode_back(monkeypatch, max_table, sequences, num_merges, texts):
    monkeypatch.setattr(bpe_encode, "MAX_TABLE", max_table)
    merges = train(sequences, num_merges)
    expansions = Expansions(np.array(merges, np.int32).reshape(-1, 2))
    greedy, ranked = GreedyEncoder(expansions), RankedEncoder(np.array(merges, np.int32).reshape(-1, 2), expansions)
    for text in [*sequences, *texts]:
        symbols = np.frombuffer(text, np.uint8)
        for encoder, reference in ((greedy, reference_greedy), (ranked, reference_ranked)):
            ids = encoder(symbols)
            assert ids.tolist() == reference(text, merges)
            assert set(ids.tolist()) <= set(encoder.reachable.tolist())
            assert expansions.decode(ids).tobytes() == text


def test_greedy_takes_the_longest_match_where_ranked_follows_the_merges():
    merges = np.array([[98, 99], [97, 98]], np.int32)  # bc, then ab
    expansions = Expansions(merges)
    text = np.frombuffer(b"abc", np.uint8)
    assert GreedyEncoder(expansions)(text).tolist() == [257, 99]
    assert RankedEncoder(merges, expansions)(text).tolist() == [97, 256]


def test_of_two_ids_with_one_expansion_greedy_gives_the_older():
    merges = np.array([[97, 98], [98, 99], [256, 99], [97, 257]], np.int32)  # ab, bc, (ab)c, a(bc)
    encoder = GreedyEncoder(Expansions(merges))
    assert encoder(np.frombuffer(b"abc", np.uint8)).tolist() == [258]
    assert 259 not in encoder.reachable


def test_expansions_refuse_a_later_id_and_a_doubling_bomb():
    with pytest.raises(EcglmError, match="merge 0"):
        Expansions(np.array([[97, 256]]))
    with pytest.raises(EcglmError, match="expansions exceed"):
        Expansions(np.array([[97, 97]] + [[i, i] for i in range(256, 320)]))


@both_walks
@settings(deadline=None, max_examples=40, suppress_health_check=patched)
@given(st.integers(0, 40), st.integers(0, 6), st.integers(0, 30), st.randoms(use_true_random=False))
def test_rows_are_encoded_one_behind_the_other(monkeypatch, max_table, num_merges, num_rows, length, random):
    monkeypatch.setattr(bpe_encode, "MAX_TABLE", max_table)
    merges = np.array(train([b"abcabcabdaab" * 9], num_merges), np.int32).reshape(-1, 2)
    expansions = Expansions(merges)
    texts = np.array([[random.choice(b"abcd\xff") for _ in range(length)] for _ in range(num_rows)], np.uint8)
    texts = texts.reshape(num_rows, length)
    for encoder in (GreedyEncoder(expansions), RankedEncoder(merges, expansions)):
        ids, ends = encoder.rows(texts)
        single = [encoder(text).tolist() for text in texts]
        assert ids.tolist() == [token for one in single for token in one]
        assert ends.tolist() == np.cumsum([len(one) for one in single]).tolist()
        assert ids.dtype == np.uint16
        spans = expansions.spans(ids).tolist()
        assert [texts.tobytes()[a:b] for a, b in spans] == [expansions.texts[i] for i in ids.tolist()]


def test_ids_are_of_16_bits_as_long_as_the_vocabulary_fits():
    assert id_type(65_536) is np.uint16
    assert id_type(65_537) is np.uint32
    merges = np.array([(left, right) for left in range(256) for right in range(256)][:65_281], np.int32)
    expansions = Expansions(merges)
    text = np.frombuffer(bytes([255, 0, 65, 66]), np.uint8)  # (255, 0) is merge 65,280: id 65,536
    for encoder in (GreedyEncoder(expansions), RankedEncoder(merges, expansions)):
        assert encoder(text).dtype == np.uint32
    assert GreedyEncoder(expansions)(text).tolist() == [65_536, 256 + 65 * 256 + 66]
