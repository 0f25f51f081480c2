"""Answers as they come: the pieces join to the text of the whole, rows join and leave and stay what they are alone."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from ecglm.errors import EcglmError
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.elm import Elm
from ecglm.models.generate import generate
from ecglm.models.prefix import window_of
from ecglm.models.stream import Group, Row, Sampling, Text, new_row
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore
from ecglm.types import Example, Turn

TEXTS = ["sinus rhythm, 72 bpm. It isn't — “normal”: ÄÖ 心电图 🫀🫀", "é è ñ 0.08 s"] * 3


def byte_level() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=290, special_tokens=["</s>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2: pieces that begin with a blank, and single bytes for all they cannot spell."""
    pieces = [*(f"<0x{n:02X}>" for n in range(256)), "▁", "▁sin", "us", "▁rh", "ythm", "72", ",", "▁n't", "'", "é"]
    vocab = {"<unk>": 0, "</s>": 1} | {piece: n + 2 for n, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")


def tidying() -> PreTrainedTokenizerFast:
    """Words, whose blanks before marks and short forms the library takes out again."""
    words = [
        "do",
        "it",
        "n't",
        "n'",
        "t",
        "'",
        "s",
        "'s",
        "'m",
        "'v",
        "e",
        "'re",
        ".",
        ",",
        "?",
        "!",
        "##n",
        "##'",
        "##t",
    ]
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, **{w: n + 1 for n, w in enumerate(words)}}, unk_token="[UNK]"))
    raw.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", clean_up_tokenization_spaces=True)


TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback(), "tidying": tidying()}


def pieces_of(tokenizer: Any, tokens: list[int]) -> list[str]:
    text = Text(tokenizer)
    return [text.more(tokens[: n + 1]) for n in range(len(tokens))] + [text.more(tokens, done=True)]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_text_of_the_whole(name: str, data: st.DataObject) -> None:
    """Any tokens at all, half characters and special tokens among them."""
    tokenizer = TOKENIZERS[name]
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=150))
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True).strip()


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40))
def test_no_piece_of_a_sound_text_holds_a_broken_character(text: str) -> None:
    tokenizer = TOKENIZERS["byte level"]
    pieces = pieces_of(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text.strip()  # what comes out is what went in, so nothing was broken on the way


def test_no_piece_holds_half_a_character_and_text_comes_early() -> None:
    tokenizer = TOKENIZERS["byte level"]
    text = "Ü 漢字 🫁 normal: no block"
    tokens = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert len(tokens) > len("".join(text.split()))  # characters of several tokens are among them
    assert sum(bool(p) for p in pieces) >= 10 and pieces[-1] == ""
    fallback = TOKENIZERS["byte fallback"]
    ids = fallback.convert_tokens_to_ids(["▁sin", "us", "<0xF0>", "<0x9F>", "<0xAB>", "<0x80>", "▁rh", "ythm"])
    assert pieces_of(fallback, ids) == ["sin", "us", "", "", "", "", "\U0001fac0 rh", "ythm", ""]


def test_the_tokenizer_that_tidies_does() -> None:
    tokenizer = TOKENIZERS["tidying"]
    assert tokenizer.decode(tokenizer.convert_tokens_to_ids(["do", "n't", "."])) == "don't."


def test_a_token_without_text_parts_no_run_of_bytes() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    tokens = tokenizer.convert_tokens_to_ids(["<0x41>", "<unk>", "<0xE2>", "us"])
    assert (
        "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens, skip_special_tokens=True) == "\ufffd\ufffdus"
    )


def test_blanks_at_the_ends_are_never_given() -> None:
    tokenizer = TOKENIZERS["byte level"]
    tokens = [*tokenizer.encode(" \n\n sinus"), *tokenizer.encode(" \n "), *tokenizer.encode("rhythm  \n")]
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == "sinus \n rhythm"
    assert not any(p.endswith((" ", "\n")) for p in pieces)


def test_a_long_answer_is_not_spelled_from_the_start_for_every_token() -> None:
    tokenizer, spelled = byte_level(), []
    decode = tokenizer.decode

    def counting(tokens: list[int], **options: Any) -> str:
        spelled.append(len(tokens))
        return decode(tokens, **options)

    tokenizer.decode = counting
    tokens = (tokenizer.encode("sinus rhythm 72 bpm, ") * 400)[:2048]
    assert "".join(pieces_of(tokenizer, tokens)) == decode(tokens).strip()
    assert sum(spelled) < 150 * len(tokens)  # for every token anew it would be a thousand times the tokens


# --- rows


@pytest.fixture
def inference(signal_run: Any, symbols_run: Any) -> Any:
    """As the engine's thread works; both models are trained before."""
    with torch.inference_mode():
        yield


def prompts(bundle: Bundle, world: Any) -> list[Example]:
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    talks = [([c.turns[0]], c.ecgs) for c in world.conversations()][:12]
    records = SegmentStore(world.store).records()
    talks += [([Turn("user", "?")], []), ([Turn("user", "<ecg> and <ecg>: " + "why? " * 9)], records[:2])]
    return [
        bundle.prompter.build("ask", turns, [ecgs.encode(e) for e in shown], generate=True) for turns, shown in talks
    ]


def rows_of(bundle: Bundle, examples: list[Example], sampling: Sampling | None = None) -> list[Row]:
    return [new_row(bundle.elm, e, 10 + n, sampling) for n, e in enumerate(examples)]


def wanted(bundle: Bundle, examples: list[Example], sampling: Sampling | None = None) -> list[dict[str, Any]]:
    """Each alone, by ``generate``."""
    return [
        generate(bundle.elm, bundle.prompter, [e], max_new_tokens=10 + n, sampling=sampling)[0]
        for n, e in enumerate(examples)
    ]


def answers(bundle: Bundle, rows: list[Row]) -> list[dict[str, Any]]:
    decode = bundle.prompter.tokenizer.decode
    return [
        {"text": decode(r.tokens, skip_special_tokens=True).strip(), "truncated": r.cut, "num_tokens": len(r.tokens)}
        for r in rows
    ]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.3, top_p=0.95, seed=5)])
@pytest.mark.parametrize("kind", ["signal", "symbols"])
@pytest.mark.usefixtures("inference")
def test_rows_that_join_later_and_rows_that_leave_change_no_other(
    kind: str, sampling: Sampling | None, world: Any, request: Any
) -> None:
    bundle = from_pretrained(request.getfixturevalue(f"{kind}_run") / "best")
    examples = prompts(bundle, world)
    expected = wanted(bundle, examples, sampling)
    assert len({a["text"] for a in expected}) > 2
    rows = rows_of(bundle, examples, sampling)
    group = Group.read(bundle.elm, bundle.prompter, rows[:4])
    for start in range(4, len(rows), 2):
        group.advance()
        later = Group.read(bundle.elm, bundle.prompter, rows[start : start + 2])
        later.advance()  # had a turn of its own
        if not group.join(later):
            while later.going:
                later.advance()
        rows[start].left |= start == 6
    while group.going:
        group.advance()
    found = answers(bundle, rows)
    assert [f for n, f in enumerate(found) if n != 6] == [e for n, e in enumerate(expected) if n != 6]
    assert rows[6].left and found[6]["num_tokens"] < rows[6].room
    assert group.advance() == [] and group.past is None


@pytest.mark.usefixtures("inference")
def test_joined_rows_are_no_wider_than_they_need_be(world: Any, signal_run: Any) -> None:
    """Groups that grow for ever, one joining after the other, do not gather empty columns."""
    bundle = from_pretrained(signal_run / "best")
    example = prompts(bundle, world)[0]
    group = Group.read(bundle.elm, bundle.prompter, [Row(example, 40)])
    for _ in range(30):
        for _ in range(8):
            group.advance()
        group.rows[0].left = True
        later = Group.read(bundle.elm, bundle.prompter, [Row(example, 40)])
        if not group.join(later):
            group = later
        assert group.past.mask.shape[1] <= len(example.input_ids) + 41
        assert all(layer.keys.shape[2] == group.past.mask.shape[1] for layer in group.past.cache.layers)


@pytest.mark.usefixtures("inference")
def test_a_row_is_read_anew_from_where_it_was(world: Any, symbols_run: Any) -> None:
    """As after a lack of memory: the same tokens, also those that are drawn."""
    bundle = from_pretrained(symbols_run / "best")
    examples = prompts(bundle, world)[:6]
    sampling = Sampling(temperature=1.5, seed=2)
    rows = rows_of(bundle, examples, sampling)
    while any(r.going for r in rows):
        group = Group.read(bundle.elm, bundle.prompter, [r for r in rows if r.going])
        for row in group.rows:
            assert row.number() == row.number()  # asked for twice, drawn once
        group.advance()
        group.advance()
    assert answers(bundle, rows) == wanted(bundle, examples, sampling)


@pytest.mark.usefixtures("inference")
def test_rows_that_left_free_their_keys_and_values(world: Any, signal_run: Any) -> None:
    bundle = from_pretrained(signal_run / "best")
    rows = rows_of(bundle, prompts(bundle, world)[:4])
    group = Group.read(bundle.elm, bundle.prompter, rows)
    group.advance()
    assert group.past.mask.shape[0] == 4
    rows[1].left = True
    group.advance()
    assert group.past.mask.shape[0] == 3 and group.past.cache.layers[0].keys.shape[0] == 3
    keys = weakref.ref(group.past.cache.layers[0].keys)
    for row in rows:
        row.left = True
    group.advance()
    gc.collect()
    assert keys() is None and group.rows == []


@pytest.mark.usefixtures("inference")
def test_no_numbers_are_the_error_of_their_row_alone(world: Any, signal_run: Any) -> None:
    bundle = from_pretrained(signal_run / "best")
    examples = prompts(bundle, world)[:3]
    expected = wanted(bundle, examples)
    rows = rows_of(bundle, examples)
    group = Group.read(bundle.elm, bundle.prompter, rows)
    group.past.logits[1] = float("nan")
    assert group.advance() == rows
    while group.going:
        group.advance()
    assert isinstance(rows[1].error, EcglmError) and "no numbers (NaN)" in str(rows[1].error)
    assert rows[1].tokens == []
    found = answers(bundle, rows)
    assert (found[0], found[2]) == (expected[0], expected[2])


@pytest.mark.usefixtures("inference")
def test_models_without_keys_and_values_stream_by_reading_anew(world: Any, signal_run: Any) -> None:
    trained = from_pretrained(signal_run / "best")
    torch.manual_seed(0)
    size = len(trained.prompter.tokenizer)
    config = MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, state_size=4, initializer_range=0.5)
    llm = MambaForCausalLM(config).eval()
    elm = Elm(llm, trained.elm.encoder, trained.elm.connector, trained.elm.placeholder_id).eval()
    assert window_of(llm) == -1
    examples = prompts(trained, world)[:3]
    rows = [new_row(elm, e, 5 + n) for n, e in enumerate(examples)]
    group = Group.read(elm, trained.prompter, rows)
    assert not group.join(Group.read(elm, trained.prompter, [Row(examples[0], 5)]))
    while group.going:
        group.advance()
    found = [trained.prompter.tokenizer.decode(r.tokens, skip_special_tokens=True).strip() for r in rows]
    expected = [generate(elm, trained.prompter, [e], max_new_tokens=5 + n)[0]["text"] for n, e in enumerate(examples)]
    assert found == expected and any(found)
