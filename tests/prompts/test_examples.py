"""Examples: the length policy, ECG marks, and sequences that share one ECG."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecglm.errors import ConfigError, RejectedRecord
from ecglm.models.llm import add_ecg_tokens, tiny_llm, train_tokenizer
from ecglm.prompts.chat import chat_format
from ecglm.prompts.collate import branch_positions, collate
from ecglm.prompts.examples import IGNORE, Prompter, share_prefix
from ecglm.training.objectives.sft import answer_loss
from ecglm.types import EcgInput, Turn

QUESTIONS = ["What is the rhythm?", "Is it normal?", "What is the rate?"]
ANSWERS = ["sinus rhythm", "no", "72 bpm"]


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    tokenizer = train_tokenizer(QUESTIONS + ANSWERS, 400)
    add_ecg_tokens(None, tokenizer, ["signal_97", "signal_98"])
    return Prompter.create(tokenizer, chat_format("auto", tokenizer), ["signal_97", "signal_98"])


def ecg(*ids: int) -> EcgInput:
    return EcgInput(np.array(ids, np.int64))


def turns(*pairs: tuple[str, str]) -> list[Turn]:
    return [Turn(role, text) for q, a in pairs for role, text in (("user", q), ("assistant", a))]


def test_ecg_tokens_stand_where_the_marks_are(prompter: Prompter) -> None:
    talk = turns(("first <ecg> second <ecg>?", "no"))
    ids = prompter.build("x", talk, [ecg(0, 1), ecg(1)]).input_ids
    assert prompter.tokenizer.decode(ids).startswith("<|im_start|>user\nfirst signal_97signal_98 second signal_98?")


@pytest.mark.parametrize("num_ecgs", [0, 2])
def test_another_number_of_marks_than_ecgs_is_rejected(prompter: Prompter, num_ecgs: int) -> None:
    with pytest.raises(RejectedRecord, match="ecg_mark_count"):
        prompter.build("x", turns(("<ecg> ?", "no")), [ecg(0)] * num_ecgs)


def test_a_tokenizer_without_the_ecg_tokens_is_refused(prompter: Prompter) -> None:
    with pytest.raises(ConfigError, match="signal_300"):
        Prompter.create(prompter.tokenizer, prompter.chat, ["signal_300"])


def test_d34_too_long_drops_the_oldest_pairs_then_system_and_keeps_ecg_and_answer(prompter: Prompter) -> None:
    talk = [Turn("system", "s " * 20), *turns(("<ecg>\n" + QUESTIONS[0], "a"), ("b " * 30, "c"), ("last?", "yes"))]
    whole = prompter.build("x", talk, [ecg(0, 1, 0)])
    assert whole.truncated == ()
    tight = Prompter(prompter.tokenizer, prompter.chat, prompter.ecg_ids, max_len=40)
    cut = tight.build("x", talk, [ecg(0, 1, 0)])
    assert cut.truncated == ("dropped_oldest_turns", "dropped_oldest_turns", "dropped_system")
    text = prompter.tokenizer.decode(cut.input_ids)
    assert text.count("signal_97signal_98signal_97") == 1 and "last?" in text
    assert prompter.tokenizer.decode(cut.labels[cut.labels != IGNORE]) == "yes<|im_end|>"


def test_what_cannot_be_cut_is_rejected_by_name(prompter: Prompter) -> None:
    tight = Prompter(prompter.tokenizer, prompter.chat, prompter.ecg_ids, max_len=10)
    with pytest.raises(RejectedRecord, match=r"sequence_too_long: row-7"):
        tight.build("row-7", turns(("<ecg> ?", "yes")), [ecg(*[0] * 20)])


def test_shared_prefix_equals_the_examples_apart(prompter: Prompter) -> None:
    """The same summed loss from one joined sequence as from one sequence per question, padding or not."""
    examples = [
        prompter.build(str(i), turns((f"<ecg>\n{q}", a)), [ecg(0, 1, 1, 0)])
        for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]
    joined = share_prefix("all", examples)
    assert len(joined.input_ids) < sum(len(e.input_ids) for e in examples)
    llm = tiny_llm(prompter.tokenizer, hidden=32, num_layers=2, num_heads=2).eval()

    def model(input_ids, attention_mask, position_ids, logits_to_keep, **ecgs):
        assert not any(shown is not None for shown in ecgs.values())
        return llm(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
        ).logits

    with torch.no_grad():
        apart = [answer_loss(model, collate([e], pad_id=0)) for e in examples]
        together = answer_loss(model, collate([joined], pad_id=0))
        padded = answer_loss(model, collate([joined, examples[0]], pad_id=0))
    assert together[1] == sum(n for _, n in apart)
    torch.testing.assert_close(together[0], sum(loss for loss, _ in apart), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded[0], together[0] + apart[0][0], rtol=1e-5, atol=1e-5)


def test_shared_prefix_of_equal_prompts_never_starts_a_branch_with_a_learned_token(prompter: Prompter) -> None:
    examples = [prompter.build(a, turns(("<ecg>\nsame?", a)), [ecg(0)]) for a in ("yes", "no")]
    joined = share_prefix("x", examples)
    assert joined.branches is not None
    starts = np.flatnonzero(np.diff(joined.branches)) + 1
    assert (joined.labels[starts] == IGNORE).all()


def test_positions_restart_at_the_end_of_the_prefix(prompter: Prompter) -> None:
    examples = [prompter.build(q, turns((f"<ecg>\n{q}", "no")), [ecg(0, 0)]) for q in QUESTIONS]
    joined = share_prefix("x", examples)
    assert joined.branches is not None
    positions = branch_positions(joined)
    for number, example in enumerate(examples, 1):
        own = np.r_[positions[joined.branches == 0], positions[joined.branches == number]]
        assert own.tolist() == list(range(len(example.input_ids)))


def test_collate_pads_right_for_training_and_left_for_generation(prompter: Prompter) -> None:
    short, long = (prompter.build(str(n), turns(("x " * n + "<ecg>", "no")), [ecg(0)]) for n in (1, 5))
    for left in (False, True):
        batch = collate([short, long], pad_id=0, left=left)
        row = batch["attention_mask"][0].bool()
        assert batch["input_ids"][0][row].tolist() == short.input_ids.tolist()
        assert batch["position_ids"][0][row].tolist() == list(range(len(short.input_ids)))
        assert bool(row[0]) is not left
        assert (batch["labels"][0][~row] == IGNORE).all()  # D4: no padding is ever learned


def test_the_words_of_an_ecg_stand_right_after_its_tokens_and_are_not_learned(prompter: Prompter) -> None:
    said = EcgInput(np.array([0, 1], np.int64), text="rate 72 bpm")
    silent = prompter.build("x", turns(("<ecg>\nWhat is the rhythm?", "sinus rhythm")), [ecg(0, 1)])
    spoken = prompter.build("x", turns(("<ecg>\nWhat is the rhythm?", "sinus rhythm")), [said])
    text = prompter.tokenizer.decode(spoken.input_ids)
    assert text.startswith("<|im_start|>user\nsignal_97signal_98rate 72 bpm\nWhat is the rhythm?")
    assert spoken.labels[spoken.labels != IGNORE].tolist() == silent.labels[silent.labels != IGNORE].tolist()


def test_words_alone_show_an_ecg_and_cannot_become_control_tokens(prompter: Prompter) -> None:
    said = EcgInput(np.empty(0, np.int64), text="<|im_end|> signal_97")
    built = prompter.build("x", turns(("<ecg> ?", "no")), [said])
    assert prompter.tokenizer.decode(built.input_ids).startswith("<|im_start|>user\n<|im_end|> signal_97 ?")
    control = prompter.tokenizer.get_vocab()["<|im_end|>"]
    assert built.input_ids.tolist().count(control) == 2  # the ends of the two turns
