"""The one decode loop: rows of answers that grow a token at a time, and the text of each as it comes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ecglm.errors import EcglmError
from ecglm.models.elm import Elm
from ecglm.models.llm import PAD
from ecglm.models.prefix import Read, join, read_prompts, step, window_of
from ecglm.prompts.examples import Prompter
from ecglm.randomness import generator_for
from ecglm.types import Example

#: Finished rows leave the batch once they are so large a part of it.
LEAVE = 0.25
#: How one token of a byte fallback is written; a run of them is text only as a whole.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Sampling:
    """Draw each token instead of taking the likeliest: from the likeliest that together have probability ``top_p``
    (arXiv 1904.09751), at a temperature. A row's draws are a function of (seed, id of its example) alone.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise EcglmError(
                f"temperature must be above 0, found {self.temperature:g}; leave it out for greedy decoding"
            )
        if not 0 < self.top_p <= 1:
            raise EcglmError(f"top_p must be above 0 and at most 1, found {self.top_p:g}")


@dataclass(eq=False)
class Row:
    """One answer on its way. tokens: so far, without the end. room: tokens at most. cut: a limit ended it. ended: its
    end token came. left: nobody wants it any more. error: why it cannot go on.
    """

    example: Example
    room: int
    drawn: Sampling | None = None
    tokens: list[int] = field(default_factory=list)
    cut: bool = False
    ended: bool = False
    left: bool = False
    error: EcglmError | None = None
    _numbers: list[float] = field(default_factory=list)
    _generator: np.random.Generator | None = None

    @property
    def going(self) -> bool:
        """Whether another token is to come."""
        return not (self.ended or self.cut or self.left or self.error is not None)

    def number(self) -> float:
        """The number in [0, 1) that draws the next token: a function of its place, however often it is asked for."""
        if self.drawn is None:
            return 0.0
        if self._generator is None:
            self._generator = generator_for(self.drawn.seed, "decoding", self.example.id)
        while len(self._numbers) <= len(self.tokens):
            self._numbers.append(float(self._generator.random()))
        return self._numbers[len(self.tokens)]

    def so_far(self) -> Example:
        """The prompt and the answer so far as one prompt."""
        if not self.tokens:
            return self.example
        ids = np.concatenate([self.example.input_ids, np.asarray(self.tokens, np.int64)])
        labels = np.concatenate([self.example.labels, np.full(len(self.tokens), -100, np.int64)])
        return replace(self.example, input_ids=ids, labels=labels)


def new_row(elm: Elm, example: Example, max_new_tokens: int, drawn: Sampling | None = None) -> Row:
    """A row for a prompt built with ``generate=True``; ``cut`` at once where the model has no position left."""
    most = _positions(elm.llm)
    room = max_new_tokens if most is None else min(max_new_tokens, most - len(example.input_ids))
    return Row(example, room, drawn, cut=room < 1)


class Group:
    """Rows that are decoded together; each token of each depends on its own row alone.

    past: what was read of the rows, in their order. leave: see ``LEAVE``; rows that nobody wants leave at once.
    """

    def __init__(
        self, elm: Elm, prompter: Prompter, past: Read | _Anew, rows: Sequence[Row], leave: float = LEAVE
    ) -> None:
        self.elm, self.prompter, self.rows = elm, prompter, list(rows)
        self.past: Any = past.select(range(len(self.rows)))
        # Beyond its last position a row cannot be read on, not even in vain.
        self.leave = leave if _positions(elm.llm) is None else 0.0
        ids = never(prompter, past.logits.shape[-1])
        self._forbidden = torch.tensor(ids, dtype=torch.int64, device=past.logits.device)

    @classmethod
    def read(cls, elm: Elm, prompter: Prompter, rows: Sequence[Row]) -> Group:
        """Read the prompts of rows (and their answers so far). A model that keeps no keys and values reads everything
        anew for every token.
        """
        examples = [r.so_far() for r in rows]
        if window_of(elm.llm) == -1:
            return cls(elm, prompter, _Anew.of(elm, [torch.from_numpy(e.input_ids) for e in examples], examples), rows)
        pad_id, ecg_ids = prompter.tokenizer.pad_token_id, prompter.ecg_ids
        room = max(r.room - len(r.tokens) for r in rows)
        return cls(elm, prompter, read_prompts(elm, examples, pad_id=pad_id, ecg_ids=ecg_ids, room=room), rows)

    @property
    def going(self) -> bool:
        """Whether a row waits for another token."""
        return any(r.going for r in self.rows)

    def advance(self) -> list[Row]:
        """One token for each row that goes on; these rows. A row whose logits are no numbers gets its ``error``."""
        going = [n for n, r in enumerate(self.rows) if r.going]
        if not going:
            self.rows, self.past = [], None  # keys and values are free
            return []
        if len(going) <= len(self.rows) * (1 - self.leave) or any(r.left for r in self.rows):
            self._keep(going)
        logits = self.past.logits.float().index_fill(1, self._forbidden, -torch.inf)
        alive = [r.going for r in self.rows]
        for row, lost in zip(self.rows, logits.amax(dim=-1).isnan().tolist(), strict=True):
            if lost and row.going:  # any token would be as good, and look like an answer
                row.error = EcglmError(
                    f"{row.example.id}: the model answers with no numbers (NaN); its weights are broken, or too large "
                    "for their dtype"
                )
        chosen = draw(logits, [r.drawn for r in self.rows], [r.number() for r in self.rows])
        end_id = self.prompter.end_id
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            if not row.going:
                continue
            if token == end_id:
                row.ended = True
                continue
            row.tokens.append(token)
            row.cut = len(row.tokens) == row.room
        if self.going:
            _step(self.elm, self.past, chosen)
        return [r for r, was in zip(self.rows, alive, strict=True) if was]

    def join(self, other: Group) -> bool:
        """Take the rows of another group in, where the model allows it and neither is padded to twice its length."""
        if not (self.going and other.going) or window_of(self.elm.llm) is not None:
            return False
        for group in (self, other):
            group._keep([n for n, r in enumerate(group.rows) if r.going])
        found = join(self.past, other.past)
        if found is None:
            return False
        self.past, self.rows = found, self.rows + other.rows
        return True

    def _keep(self, at: Sequence[int]) -> None:
        self.past, self.rows = self.past.select(at), [self.rows[n] for n in at]


@dataclass
class _Anew:
    """What ``Read`` is to models that keep keys and values: here every token reads its whole row again."""

    ids: list[torch.Tensor]
    examples: list[Example]
    logits: torch.Tensor

    @classmethod
    def of(cls, elm: Elm, ids: list[torch.Tensor], examples: list[Example]) -> _Anew:
        found = []
        for row, example in zip(ids, examples, strict=True):  # one by one: a state would take padding in
            given = {
                n: torch.from_numpy(t) for n in ("ecg", "image", "tiles") if (t := getattr(example, n)) is not None
            }
            tokens = row[None].to(elm.device)
            embeds = elm.embed(tokens, **given)
            out = elm.llm(inputs_embeds=embeds, attention_mask=torch.ones_like(tokens), use_cache=False)
            found.append(out.logits[:, -1])
        return cls(ids, examples, torch.cat(found))

    def select(self, rows: Sequence[int]) -> _Anew:
        at = torch.tensor(list(rows), device=self.logits.device)
        return _Anew([self.ids[r] for r in rows], [self.examples[r] for r in rows], self.logits[at])


def _step(elm: Elm, past: Any, chosen: torch.Tensor) -> None:
    if isinstance(past, _Anew):
        ids = [torch.cat([i, t[None].cpu()]) for i, t in zip(past.ids, chosen, strict=True)]
        grown = _Anew.of(elm, ids, past.examples)
        past.ids, past.logits = grown.ids, grown.logits
    else:
        step(elm, past, chosen)


def draw(logits: torch.Tensor, drawn: Sequence[Sampling | None], numbers: Sequence[float]) -> torch.Tensor:
    """One token per row of ``(rows, vocabulary)`` logits: the likeliest, or drawn by the row's number in [0, 1)."""
    greedy = logits.argmax(dim=-1)
    if not any(drawn):
        return greedy

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    plain = Sampling()
    chances = torch.softmax(logits.double() / column([(s or plain).temperature for s in drawn]), dim=-1)
    likely, order = torch.sort(chances, dim=-1, descending=True, stable=True)
    before = likely.cumsum(dim=-1) - likely
    likely = likely * (before < column([(s or plain).top_p for s in drawn]))  # the token that reaches top_p is in
    reached = likely.cumsum(dim=-1)
    at = torch.searchsorted(reached, column(numbers) * reached[:, -1:], right=True)
    at = at.clamp(max=((likely > 0).sum(dim=-1, keepdim=True) - 1).clamp(min=0))
    kept = torch.tensor([s is not None for s in drawn], device=logits.device)
    return torch.where(kept, order.gather(1, at)[:, 0], greedy)


def never(prompter: Prompter, size: int) -> list[int]:
    """Tokens no answer may hold: those of the ECG, our own padding, rows of the table that no token has."""
    tokenizer = prompter.tokenizer
    ids = {*prompter.ecg_ids, *range(len(tokenizer), size)}
    if tokenizer.pad_token == PAD:
        ids.add(tokenizer.pad_token_id)
    return sorted(i for i in ids - {prompter.end_id} if i < size)


def _positions(llm: Any) -> int | None:
    """How many positions a model has where it has a table of them; rotary ones have no end."""
    config = llm.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    return None if rotary else getattr(config, "max_position_embeddings", None)


def answer_text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of a whole answer."""
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text.strip()


class Text:
    """The text of an answer in pieces: joined they are ``answer_text``, and none ends in half a character.

    What a later token may still change is kept back: an unfinished character, a run of byte tokens, blanks that may
    turn out to be the last, and, where the tokenizer tidies blanks before marks, the last few characters.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._given = tokenizer, ""
        self._silent = frozenset(tokenizer.all_special_ids)  # left out of texts, so they part no run of bytes
        self._back = 4 if getattr(tokenizer, "clean_up_tokenization_spaces", False) else 0

    def more(self, tokens: Sequence[int], done: bool = False) -> str:
        """What is new, often nothing; all the rest where the answer is ``done``."""
        if not done and not self._worth(tokens):
            return ""
        text = answer_text(self._tokenizer, tokens)
        if not done:
            text = text.rstrip("\ufffd").rstrip()
            text = text[: len(text) - self._back].rstrip() if self._back else text
        if len(text) <= len(self._given) or not (done or text.startswith(self._given)):
            return ""
        found, self._given = text[len(self._given) :], text
        return found

    def _worth(self, tokens: Sequence[int]) -> bool:
        """Whether to look: never inside a run of bytes; in a long answer every few tokens, so that its text is not
        spelled from the start for each.
        """
        if not tokens or len(tokens) % max(len(tokens) // 64, 1):
            return False
        last = next((t for t in reversed(tokens) if t not in self._silent), None)
        word = None if last is None else self._tokenizer.convert_ids_to_tokens(last)
        return not (isinstance(word, str) and _BYTE.fullmatch(word))
