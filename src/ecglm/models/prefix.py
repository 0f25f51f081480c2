"""Prompts read before answers are written: what several of them begin with is read once, its ECGs encoded once.

A model that looks back only leaves the same keys and values behind for the same beginning, whatever follows. So the
prompts of a batch are read in levels: what all begin with (a system text), then what the prompts about one ECG begin
with (the ECG and the first words of the question), then the rest of each. A level's rows lie left-padded behind the
rows of the level above; padding is masked, and every token is told its own position.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ecglm.models.elm import Elm
from ecglm.prompts.collate import collate
from ecglm.types import Example

#: What an example holds for the encoders.
_TENSORS = ("ecg", "image", "tiles")
#: A pass of its own pays when so many tokens need not be read again.
WORTH = 32
#: Columns of keys and values that are set aside at a time for tokens to come.
_ROOM = 32


@dataclass
class Read:
    """Prompts that were read, one row each.

    cache: keys and values. mask: int64 ``(rows, columns)``, 1 where the cache holds a token of the row. lengths: int64
    ``(rows,)``, tokens read. logits: ``(rows, vocabulary)`` behind the last token. ids: the tokens of each row.
    """

    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor
    ids: list[np.ndarray]

    def select(self, rows: Sequence[int]) -> Read:
        """These rows, in this order, repeats allowed. What is there stays as it is."""
        if list(rows) == list(range(len(self.lengths))):
            return replace(self, cache=_copied(self.cache))
        at = torch.tensor(rows, device=self.mask.device)
        cache = _copied(self.cache)
        cache.batch_select_indices(at)
        return Read(cache, self.mask[at], self.lengths[at], self.logits[at], [self.ids[r] for r in rows])


def join(first: Read, second: Read) -> Read | None:
    """The rows of both, first those of ``first``; what is shorter is padded on the left. None where a cache holds other
    layers than plain ones, or where one side would be more than half padding.
    """
    sides = [_trimmed(r) for r in (first, second)]
    if any(type(layer) is not _Layer for r in sides for layer in r.cache.layers):
        return None
    widths = [r.mask.shape[1] for r in sides]
    if max(widths) > 2 * min(widths):
        return None
    lacking = [max(widths) - w for w in widths]
    cache = _copied(sides[0].cache)
    for number, layer in enumerate(cache.layers):
        both = [r.cache.layers[number] for r in sides]
        layer.keys, layer.values = (
            torch.cat([pad(getattr(one, name), (0, 0, n, 0)) for one, n in zip(both, lacking, strict=True)])
            for name in ("keys", "values")
        )
    return Read(
        cache,
        torch.cat([pad(r.mask, (n, 0)) for r, n in zip(sides, lacking, strict=True)]),
        torch.cat([r.lengths for r in sides]),
        torch.cat([r.logits for r in sides]),
        [i for r in sides for i in r.ids],
    )


def _trimmed(past: Read) -> Read:
    """Without the columns on the left that hold no token of any row."""
    empty = int(past.mask.any(dim=0).int().argmax())
    if not empty or any(type(layer) is not _Layer for layer in past.cache.layers):
        return past
    cache = _copied(past.cache)
    for layer in cache.layers:
        layer.keys, layer.values = (t[:, :, empty:] for t in (layer.keys, layer.values))
    return replace(past, cache=cache, mask=past.mask[:, empty:])


class _Layer(DynamicLayer):
    """Keys and values with room behind them: one more token is written there, and what is known is not copied."""

    _room: list[torch.Tensor] | None = None

    def __copy__(self) -> _Layer:
        """Shares what is known, not the room: each of two would write there."""
        found = _Layer()
        found.__dict__.update(self.__dict__, _room=None)
        return found

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        known = self.get_seq_length()
        if key_states.shape[-2] != 1 or not known:
            self._room = None
            found: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return found
        if self._room is None or self._room[0].shape[-2] == known:
            self._room = [_with_room(t) for t in (self.keys, self.values)]
        for stored, new in zip(self._room, (key_states, value_states), strict=True):
            stored[:, :, known : known + 1] = new
        self.keys, self.values = (stored[:, :, : known + 1] for stored in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """These rows; with room at once, since tokens follow."""
        known = self.get_seq_length()
        if known:
            self._room = [_with_room(t, indices) for t in (self.keys, self.values)]
            self.keys, self.values = (stored[:, :, :known] for stored in self._room)


def _with_room(known: torch.Tensor | None, rows: torch.Tensor | None = None) -> torch.Tensor:
    """``(rows, heads, columns, size)``, or these rows of it, with ``_ROOM`` more columns, of which nothing is said."""
    assert known is not None
    number, heads, columns, size = known.shape
    found = known.new_empty(number if rows is None else len(rows), heads, columns + _ROOM, size)
    if rows is None:
        found[:, :, :columns] = known
    else:
        torch.index_select(known.detach(), 0, rows, out=found[:, :, :columns])
    return found


def _copied(cache: Any) -> Any:
    """A cache that grows by itself; the tensors are shared, since growing never changes them."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    return found


def _roomy(cache: Any) -> Any:
    """An empty cache whose plain layers have room; those of a window drop what is behind it instead."""
    if not cache.layers:
        cache.layer_class_to_replicate = _Layer
    return cache


def window_of(llm: Any) -> int | None:
    """How many tokens back the narrowest layer looks; None for all of them; -1 where the model keeps something else
    than keys and values (a recurrent state, say), or does not let positions be told.
    """
    known = inspect.signature(llm.forward).parameters
    if not {"position_ids", "past_key_values", "inputs_embeds"} <= known.keys():
        return -1
    windows = []
    for layer in DynamicCache(config=llm.config).layers:
        if isinstance(layer, DynamicSlidingWindowLayer):
            windows.append(layer.sliding_window)
        elif type(layer) is not DynamicLayer:
            return -1
    return min(windows, default=None)


def read_prompts(
    elm: Elm, examples: Sequence[Example], *, pad_id: int, ecg_ids: Sequence[int], room: int, share: bool = True
) -> Read:
    """Read prompts (built with ``generate=True``). room: tokens that will follow. share: read what is alike only once.

    ecg_ids: the ECG's tokens. Only for models whose ``window_of`` is not -1; where a window is narrower than prompts
    and answers together, nothing is shared, since a window counts padding too.
    """
    window = window_of(elm.llm)
    levels = plan(examples, ecg_ids) if share else []
    if window is not None:
        columns = sum(max(node.stop - node.start for node in level) for level in levels)
        plain = max(len(e.input_ids) for e in examples)
        if max(columns, plain) + room > window:
            levels = []
    within = window is None or bool(levels)
    if not levels:
        levels = [[_Node(number, 0, len(e.input_ids), 0) for number, e in enumerate(examples)]]
    past: Read | None = None
    for level in levels:
        parts = [_part(examples[n.row], n.start, n.stop, ecg_ids) for n in level]
        past = _read(elm, parts, past, [n.parent for n in level], pad_id, None if within else elm.llm.config)
    assert past is not None
    return replace(past, ids=[e.input_ids for e in examples])


def read_on(
    elm: Elm,
    earlier: Read,
    rows: Sequence[int],
    examples: Sequence[Example],
    *,
    pad_id: int,
    ecg_ids: Sequence[int],
    room: int,
) -> Read | None:
    """Read prompts that go on where earlier ones (``rows`` of ``earlier``) ended, as later questions of a talk do.

    None where one of them does not begin with an earlier prompt as far as its last ECG, or where a window is narrower
    than all of it: then the prompts are to be read anew.
    """
    window = window_of(elm.llm)
    if window is not None:
        longest = max(len(e.input_ids) for e in examples)
        if earlier.mask.shape[1] + longest + room > window:
            return None
    same = []
    for row, example in zip(rows, examples, strict=True):
        alike = min(_common([earlier.ids[row], example.input_ids]), len(example.input_ids) - 1)
        if alike < max(_ecg_end(example, ecg_ids), 1):
            return None
        same.append(alike)
    past = earlier.select(rows)
    kept = torch.tensor(same, device=past.mask.device)
    past.mask = past.mask * (past.mask.cumsum(dim=1) <= kept[:, None])  # what differs behind is padding from now on
    past.lengths = kept
    parts = [_part(e, n, len(e.input_ids), ecg_ids) for e, n in zip(examples, same, strict=True)]
    found = _read(elm, parts, past, range(len(parts)), pad_id, None)
    return replace(found, ids=[e.input_ids for e in examples])


def step(elm: Elm, past: Read, chosen: torch.Tensor) -> None:
    """Read one more token per row, int64 ``(rows,)``; ``past`` grows by it."""
    past.mask = torch.cat([past.mask, torch.ones_like(past.mask[:, :1])], dim=1)
    out = elm.llm(
        inputs_embeds=elm.embed(chosen[:, None]),
        attention_mask=past.mask,
        position_ids=past.lengths[:, None],
        past_key_values=past.cache,
        use_cache=True,
    )
    past.lengths = past.lengths + 1
    past.cache, past.logits = out.past_key_values, out.logits[:, -1]


@dataclass(frozen=True)
class _Node:
    """Tokens ``start`` to ``stop`` of a row, behind node ``parent`` of the level above."""

    row: int
    start: int
    stop: int
    parent: int


def plan(examples: Sequence[Example], ecg_ids: Sequence[int]) -> list[list[_Node]]:
    """The levels in which prompts are best read; empty where reading each as a whole is as good."""
    ids = [e.input_ids for e in examples]
    about: dict[Any, list[int]] = {}
    for row, example in enumerate(examples):
        about.setdefault(shown(example, ecg_ids), []).append(row)
    groups = [part for rows in about.values() for part in _alike(rows, examples, ecg_ids)]
    ends = [_end(rows, examples, ecg_ids) for rows in groups]
    saved = sum((len(rows) - 1) * end for rows, end in zip(groups, ends, strict=True))
    if saved < WORTH:
        groups, ends = [[row] for row in range(len(ids))], []
    first = min(int(np.argmax(np.append(np.isin(i, ecg_ids), True))) for i in ids)
    alike = min(_common(ids), first, min(len(i) for i in ids) - 1, *(end - 1 for end in ends))
    levels: list[list[_Node]] = []
    if alike * (len(groups) - 1) >= WORTH:
        levels.append([_Node(0, 0, alike, 0)])
    else:
        alike = 0
    parents = [0] * len(ids)
    if ends:
        levels.append([_Node(rows[0], alike, end, 0) for rows, end in zip(groups, ends, strict=True)])
        for number, rows in enumerate(groups):
            for row in rows:
                parents[row] = number
    if not levels:
        return []
    starts = {row: end for rows, end in zip(groups, ends, strict=True) for row in rows} if ends else {}
    levels.append([_Node(row, starts.get(row, alike), len(i), parents[row]) for row, i in enumerate(ids)])
    return levels


def _alike(rows: list[int], examples: Sequence[Example], ecg_ids: Sequence[int]) -> list[list[int]]:
    """Rows about the same ECG as one group, where their beginning reaches its end; else each by itself."""
    together = _common([examples[r].input_ids for r in rows])
    return [rows] if together >= max(_ecg_end(examples[rows[0]], ecg_ids), 2) else [[row] for row in rows]


def _end(rows: list[int], examples: Sequence[Example], ecg_ids: Sequence[int]) -> int:
    """Where the shared beginning of a group ends: at least one token of every row stays for the rest."""
    ids = [examples[r].input_ids for r in rows]
    most = min(len(i) for i in ids) - 1
    if len(rows) > 1:
        return min(_common(ids), most)
    return min(max(_ecg_end(examples[rows[0]], ecg_ids), 1), most)  # as far as those of the groups, about


def _common(ids: Sequence[np.ndarray]) -> int:
    """With how many equal tokens all begin."""
    shortest = min(len(i) for i in ids)
    stacked = np.stack([i[:shortest] for i in ids])
    differs = np.any(stacked != stacked[:1], axis=0)
    return int(np.argmax(differs)) if differs.any() else shortest


def _ecg_end(example: Example, ecg_ids: Sequence[int]) -> int:
    """The place behind the last token of an ECG; 0 without one."""
    at = np.flatnonzero(np.isin(example.input_ids, ecg_ids))
    return int(at[-1]) + 1 if len(at) else 0


def shown(example: Example, ecg_ids: Sequence[int]) -> tuple[bytes, ...]:
    """What makes two prompts prompts about the same ECGs."""
    tokens = example.input_ids[np.isin(example.input_ids, ecg_ids)] if len(ecg_ids) else example.input_ids[:0]
    tensors = [t for t in (getattr(example, name) for name in _TENSORS) if t is not None]
    return (tokens.tobytes(), *(hashlib.sha256(np.ascontiguousarray(t).data).digest() for t in tensors))


def _part(example: Example, start: int, stop: int, ecg_ids: Sequence[int]) -> Example:
    """A stretch of a prompt; its ECGs come with the stretch that has their tokens."""
    if (start, stop) == (0, len(example.input_ids)):
        return example
    cut = replace(example, input_ids=example.input_ids[start:stop], labels=example.labels[start:stop])
    return cut if _ecg_end(cut, ecg_ids) else replace(cut, ecg=None, image=None, tiles=None)


def _read(
    elm: Elm, parts: Sequence[Example], past: Read | None, parents: Sequence[int], pad_id: int, config: Any
) -> Read:
    """One pass over a level. config: of the LLM, where its own kind of cache is wanted."""
    batch = collate(parts, pad_id=pad_id, left=True)
    ids, mask = batch["input_ids"].to(elm.device), batch["attention_mask"].to(elm.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    whole, lengths = mask, mask.sum(dim=1)
    cache: Any = _roomy(DynamicCache(config=config))
    above: Read | None = None
    if past is not None:
        above = past.select(parents)
        cache, whole = above.cache, torch.cat([above.mask, mask], dim=1)
        positions, lengths = positions + above.lengths[:, None], lengths + above.lengths
    embeds = elm.embed(ids, **_tensors(batch))
    allowed = whole
    if elm.bidirectional:
        opened = elm.attention(ids, mask)
        assert opened is not None
        allowed = opened
        if above is not None:
            earlier = torch.zeros(above.mask.shape, device=ids.device)
            earlier.masked_fill_(above.mask == 0, torch.finfo(torch.float32).min)
            earlier = earlier[:, None, None].expand(-1, 1, ids.shape[1], -1)
            allowed = torch.cat([earlier, allowed], dim=3)
        allowed = allowed.to(embeds.dtype)
    out = elm.llm(
        inputs_embeds=embeds,
        attention_mask=allowed,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Read(out.past_key_values, whole, lengths, out.logits[:, -1], [p.input_ids for p in parts])


def _tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """What ``collate`` found for the encoders."""
    return {name: batch[name] for name in _TENSORS if name in batch}
