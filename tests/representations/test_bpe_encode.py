"""The greedy and the ranked encoder against plain-Python references that rescan the text; expansions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.errors import EcglmError
from ecglm.representations.bpe import train_merges
from ecglm.representations.bpe_encode import Expansions, GreedyEncoder, RankedEncoder


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


@settings(deadline=None, max_examples=200)
@given(corpora, st.integers(0, 40), st.lists(st.one_of(runs, few, st.binary(max_size=30)), max_size=4))
def test_encoders_equal_the_naive_references_and_decode_back(sequences, num_merges, texts):
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
