"""outcomes.py: in = mapped + every reason, whichever way the items came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ecglm.conversations.outcomes import MapResult, NotAsked, Reject, SetAside, Tally, collect
from ecglm.types import Conversation, Turn

ROW = Conversation("c", "toy", "t", "train", (), (), (Turn("user", "q"), Turn("assistant", "a")))
reasons = st.sampled_from(["empty_turn", "ecg_not_in_store", "rate.not_measured"])
streams = st.lists(
    st.just(ROW)
    | st.builds(Reject, st.text(), reasons, st.text())
    | st.builds(SetAside, st.text(), reasons)
    | st.builds(NotAsked, reasons, st.integers(1, 5))
)


@given(streams)
def test_counts_reconcile_and_a_result_is_the_stream_again(stream):
    result = collect(iter(stream))
    assert result.counts["in"] == sum(n for name, n in result.counts.items() if name != "in")
    assert result.counts["mapped"] == len(result.conversations) == stream.count(ROW)
    assert len(result.rejected) == sum(isinstance(o, Reject) for o in stream)
    assert len(result.set_aside) == sum(isinstance(o, SetAside) for o in stream)
    again = collect(result.outcomes())
    assert again.counts == result.counts
    assert (again.conversations, again.rejected, again.set_aside) == (
        result.conversations,
        result.rejected,
        result.set_aside,
    )


def test_a_tally_knows_the_first_of_each_kind():
    tally = Tally()
    for outcome in (NotAsked("x", 3), SetAside("a", "r"), Reject("b", "s"), Reject("c", "s"), ROW):
        tally.add(outcome)
    assert tally.counts == {"in": 7, "mapped": 1, "x": 3, "r": 1, "s": 2}
    assert tally.rejected == {"s": 2} and tally.splits == {"train": 1}
    assert tally.firsts[Reject] == Reject("b", "s") and tally.firsts[SetAside] == SetAside("a", "r")


def test_an_empty_result():
    assert list(MapResult([], {"in": 0, "mapped": 0}).outcomes()) == []
