"""Turns + ECG inputs → Example: ids, loss mask, and what to do when the sequence is too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ecglm.errors import ConfigError, RejectedRecord
from ecglm.prompts.chat import ChatFormat, Piece, encode_pieces, end_token_id
from ecglm.prompts.retrieved import RagOptions, Retrieved, compose
from ecglm.prompts.spelling import Spelling, spelling
from ecglm.types import ECG_MARK, EcgInput, Example, Neighbour, Turn

IGNORE = -100


@dataclass(frozen=True)
class Prompter:
    """Builds examples for one tokenizer, chat format and set of ECG tokens.

    ecg_ids: tokenizer id of each of the representation's ``added_tokens``, in their order. max_len: tokens at most.
    rag: how the model was told of retrieved ECGs when it learned; None where it was not.
    """

    tokenizer: Any
    chat: ChatFormat
    ecg_ids: tuple[int, ...]
    max_len: int = 2048
    system: str = ""
    rag: RagOptions | None = None

    @classmethod
    def create(
        cls, tokenizer: Any, chat: ChatFormat, added_tokens: Sequence[str], max_len: int = 2048, system: str = ""
    ) -> Prompter:
        """Look the ECG tokens up in the tokenizer; ConfigError when it does not have them."""
        vocab: Mapping[str, int] = tokenizer.get_vocab()
        missing = [t for t in added_tokens if t not in vocab]
        if missing:
            raise ConfigError(
                f"the tokenizer lacks {len(missing)} ECG tokens (first: {missing[0]}); "
                "it does not belong to this representation"
            )
        return cls(tokenizer, chat, tuple(vocab[t] for t in added_tokens), max_len, system)

    @cached_property
    def spelling(self) -> Spelling:
        """What the tokenizer does with text."""
        return spelling(self.tokenizer)

    @cached_property
    def _ids_of_ecg(self) -> np.ndarray:
        return np.asarray(self.ecg_ids, np.int64)

    @cached_property
    def end_id(self) -> int:
        """Where an answer stops."""
        return end_token_id(self.tokenizer, self.chat)

    def tell(self, neighbours: Sequence[Neighbour]) -> Retrieved:
        """What a prompt says of retrieved ECGs, in the manner and within the tokens of ``rag`` (or the usual ones)."""
        options = self.rag or RagOptions()
        return compose(neighbours, options).within(options.max_tokens, self._count)

    def _count(self, text: str) -> int:
        return len(self.spelling.raw(text))

    def build(
        self,
        example_id: str,
        turns: Sequence[Turn],
        ecgs: Sequence[EcgInput],
        *,
        generate: bool = False,
        retrieved: Retrieved | Sequence[Neighbour] = (),
    ) -> Example:
        """One example. With ``generate`` the turns end with the user and the assistant's header is added. retrieved:
        ECGs like those it shows, or what ``tell`` made of them.

        When longer than ``max_len`` retrieved text goes first, from its far end, then the oldest question–answer pairs
        (the first user turn's ECG stays), then the system turn; an answer, the last question or an ECG is never cut.
        Raises RejectedRecord ``sequence_too_long``, or ``ecg_mark_count`` when marks and ECGs differ in number.
        """
        turns = list(turns)
        if self.system and (not turns or turns[0].role != "system"):
            turns.insert(0, Turn("system", self.system))
        marks = sum(t.text.count(ECG_MARK) for t in turns if t.role != "assistant")
        if marks != len(ecgs):
            raise RejectedRecord("ecg_mark_count", f"{example_id}: {marks} ECG marks for {len(ecgs)} ECGs")
        told = retrieved if isinstance(retrieved, Retrieved) else self.tell(retrieved)
        truncated: list[str] = []
        while True:
            ids, labels = self._encode(told.into(turns), ecgs, generate)
            if len(ids) <= self.max_len:
                break
            if told.blocks:
                told = told.within(self._count(told.text) - (len(ids) - self.max_len), self._count)
                continue
            shorter, what = _shorten(turns)
            if shorter is None:
                detail = f"{example_id}: {len(ids)} tokens, at most {self.max_len} fit (max_len)"
                raise RejectedRecord("sequence_too_long", detail)
            turns = shorter
            truncated.append(what)
        tensors = [e.tensor if e.tiles is not None else e.tensor[None] for e in ecgs if e.tensor is not None]
        images = [e.image for e in ecgs if e.image is not None]
        tiles = [e.tiles for e in ecgs if e.tiles is not None]
        return Example(
            id=example_id,
            input_ids=np.asarray(ids, np.int64),
            labels=np.asarray(labels, np.int64),
            ecg=np.concatenate(tensors) if tensors else None,
            truncated=(*told.cut, *truncated, *("ecg_tokens" for e in ecgs if e.truncated)),
            image=np.stack(images) if images else None,
            tiles=np.stack(tiles) if tiles else None,
        )

    def _encode(self, turns: Sequence[Turn], ecgs: Sequence[EcgInput], generate: bool) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for piece, tokens in self.spell(turns, ecgs, generate=generate):
            ids.extend(tokens)
            labels.extend(tokens if piece.labelled else [IGNORE] * len(tokens))
        return ids, labels

    def spell(
        self, turns: Sequence[Turn], ecgs: Sequence[EcgInput], *, generate: bool = False
    ) -> list[tuple[Piece, list[int]]]:
        """The pieces of a talk with their token ids, ECGs filled in; what an ECG says in words follows its tokens."""
        remaining = iter(ecgs)
        pieces: list[Piece] = []
        shown: dict[int, EcgInput] = {}
        for piece in self.chat.pieces(turns, generate=generate):
            pieces.append(piece)
            if piece.kind == "ecg":
                ecg = shown[len(pieces) - 1] = next(remaining)
                if ecg.text:
                    pieces.append(Piece("words", ecg.text, False, piece.turn))
        found = encode_pieces(self.spelling, pieces, apart=self.chat.apart)
        for at, ecg in shown.items():
            found[at] = self._ids_of_ecg[ecg.token_ids].tolist()
        return list(zip(pieces, found, strict=True))


def _shorten(turns: list[Turn]) -> tuple[list[Turn] | None, str]:
    """One step of the length policy: drop the oldest pair after the first, else the first pair's text, else system."""
    first = 1 if turns and turns[0].role == "system" else 0
    pairs = [i for i in range(first, len(turns) - 1) if turns[i].role == "user" and turns[i + 1].role == "assistant"]
    last_user = max((i for i, t in enumerate(turns) if t.role == "user"), default=-1)
    droppable = [i for i in pairs if i != last_user]
    if droppable:
        oldest = droppable[0]
        marks = turns[oldest].text.count(ECG_MARK)
        kept = turns[:oldest] + turns[oldest + 2 :]
        if marks:  # the ECG moves to the next user turn instead of leaving with its question
            kept[oldest] = Turn("user", f"{ECG_MARK * marks}\n{kept[oldest].text}")
        return kept, "dropped_oldest_turns"
    if first:
        return turns[1:], "dropped_system"
    return None, ""


def share_prefix(example_id: str, examples: Sequence[Example], ecg_ids: Sequence[int] = ()) -> Example:
    """Join examples that start with the same tokens (the same ECG) into one sequence: prefix once, then the branches.

    With the mask and positions that ``collate`` makes of ``branches`` the loss equals that of the examples apart,
    at the cost of one ECG instead of many. ``examples`` must show the same single ECG. ecg_ids: the ECG's tokens; where
    they are not in the prefix (the questions differ before the ECG) each branch keeps an ECG of its own.
    """
    shortest = min(len(e.input_ids) for e in examples)
    stacked = np.stack([e.input_ids[:shortest] for e in examples])
    labelled = np.stack([e.labels[:shortest] for e in examples]) != IGNORE
    differs = np.any(stacked != stacked[:1], axis=0)
    # A token is learned from the one before it in the sequence, so a branch must not start with a learned token.
    differs[:-1] |= labelled.any(axis=0)[1:]
    differs[-1] = True
    prefix = int(np.argmax(differs))
    own = bool(ecg_ids) and not np.isin(stacked[0, :prefix], ecg_ids).any()
    kept = examples if own else examples[:1]
    tensors = [e.ecg for e in kept if e.ecg is not None]
    images = [e.image for e in kept if e.image is not None]
    tiles = [e.tiles for e in kept if e.tiles is not None]
    ids, labels, branches = [examples[0].input_ids[:prefix]], [examples[0].labels[:prefix]], [np.zeros(prefix, int)]
    for number, example in enumerate(examples, 1):
        ids.append(example.input_ids[prefix:])
        labels.append(example.labels[prefix:])
        branches.append(np.full(len(example.input_ids) - prefix, number))
    return Example(
        id=example_id,
        input_ids=np.concatenate(ids),
        labels=np.concatenate(labels),
        ecg=np.concatenate(tensors) if tensors else None,
        branches=np.concatenate(branches).astype(np.int64),
        truncated=tuple(t for e in examples for t in e.truncated),
        image=np.concatenate(images) if images else None,
        tiles=np.concatenate(tiles) if tiles else None,
    )
