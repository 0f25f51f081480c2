"""seen.py: the same answers as a dictionary, in a fraction of its memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ecglm.conversations import seen
from ecglm.conversations.seen import Seen


@given(st.lists(st.text(max_size=3)), st.integers(1, 6))
def test_it_answers_as_a_dictionary(texts, recent):
    old, seen._RECENT = seen._RECENT, recent
    try:
        ours, truth = Seen(), {}
        for number, text in enumerate(texts):
            assert ours.add(text, number) == truth.get(text)
            truth.setdefault(text, number)
    finally:
        seen._RECENT = old


def test_ids_cost_sixteen_bytes():
    ours, num = Seen(), 3 * seen._RECENT
    assert all(ours.add(f"corpus/train/a-rather-long-source-id-{n}", n) is None for n in range(num))
    assert ours._hashes.nbytes + ours._numbers.nbytes == 16 * num and not ours._recent
    for number in (0, 77_777, num - 1):
        assert ours.add(f"corpus/train/a-rather-long-source-id-{number}", 0) == number
