"""Attention within packed documents: none of a row's tokens sees another document, and no time is spent on trying.

``collate_packed`` lays the documents of a batch one after another in a single row and says of every token which
document it is of. The linear layers see that row as it is; for the attention the documents are put side by side,
like with like in length, handed to the model's own attention function (``sdpa`` or ``eager``) as a small causal batch,
and put back. So the work grows with the squares of the documents' lengths, not of the row's, and nothing else changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ecglm.errors import ConfigError
from ecglm.prompts.packing import document_table, is_document_table

#: The library's attention → ours, which is the same for batches that are not packed.
NAMES = {"sdpa": "packed_sdpa", "eager": "packed_eager"}
#: Documents are put side by side when the shortest has at least this share of the longest's tokens.
ALIKE = 0.8


class _Select(torch.autograd.Function):
    """``source[there]`` along the first axis, where ``back`` says in which place of the result a row of the source
    stands once: the gradient is another selection, not a sum, so it is fast and the same every time.

    Places of the result in ``spare`` are fillers: they get no gradient. Rows of the source that are not selected
    (``back`` is -1) get zeros.
    """

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return source.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (back,) = ctx.saved_tensors
        out = grads[0].index_select(0, back.clamp(min=0))
        return out.masked_fill_((back < 0).view(-1, *(1,) * (out.ndim - 1)), 0), None, None


@dataclass
class _Group:
    """Documents of like length, side by side.

    tokens: int64 ``(num_documents, longest)``, where in the row each token lies; fillers lie at 0. branches: int64 of
    the same shape, -1 for fillers, or None where no document has branches. positions: of the same shape. ecgs: of the
    same shape, 0 for what is of no ECG, or None; tokens of the same ECG see each other.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    branches: torch.Tensor | None
    ecgs: torch.Tensor | None
    longest_position: int
    masks: dict[Any, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, eager: torch.dtype | None) -> torch.Tensor | None:
        """Who may look at whom, ``(num_documents or 1, 1, longest, longest)``; None where plain causal order is all.

        eager: additive, of that dtype; else boolean.
        """
        window = None if window is None or self.longest_position < window else window
        if (window, eager) not in self.masks:
            self.masks[window, eager] = self._mask(window, eager)
        return self.masks[window, eager]

    def _mask(self, window: int | None, eager: torch.dtype | None) -> torch.Tensor | None:
        if self.branches is None and self.ecgs is None and window is None and eager is None:
            return None
        size = self.tokens.shape[1]
        allowed = torch.ones(1, size, size, dtype=torch.bool, device=self.tokens.device).tril()
        if self.branches is not None:
            query, key = self.branches[:, :, None], self.branches[:, None, :]
            allowed = allowed & ((key == query) | ((key == 0) & (query >= 0)))
        if window is not None:
            allowed = allowed & (self.positions[:, :, None] - self.positions[:, None, :] < window)
        if self.ecgs is not None:
            allowed = allowed | ((self.ecgs[:, :, None] == self.ecgs[:, None, :]) & (self.ecgs != 0)[:, None, :])
        if eager is None:
            return allowed[:, None]
        additive = torch.zeros(allowed.shape, dtype=eager, device=allowed.device)
        return additive.masked_fill_(~allowed, torch.finfo(eager).min)[:, None]


@dataclass
class _Blocks:
    """How a row's documents lie in groups. there: where in the row each place of all groups is taken from; back: in
    which place of all groups each token of the row stands; filled: ``back`` seen from the places, -1 for fillers.
    """

    groups: list[_Group]
    there: torch.Tensor
    back: torch.Tensor
    filled: torch.Tensor


def _blocks(table: torch.Tensor) -> _Blocks:
    """The groups of a table, made when the first layer asks and kept with the table for the others."""
    found: _Blocks | None = getattr(table, "_ecglm_blocks", None)
    if found is None:
        found = _make_blocks(table)
        table._ecglm_blocks = found  # type: ignore[attr-defined]
    return found


def _make_blocks(table: torch.Tensor) -> _Blocks:
    documents, branches, positions, *more = table[0, 0].cpu().unbind()
    lengths = torch.bincount(documents)
    starts = torch.cumsum(lengths, 0) - lengths
    sizes = lengths.tolist()
    groups: list[list[int]] = []
    for document in torch.argsort(lengths, descending=True, stable=True).tolist():
        if not groups or sizes[document] < ALIKE * sizes[groups[-1][0]]:
            groups.append([])
        groups[-1].append(document)
    made, there, filled = [], [], []
    for group in groups:
        offsets = torch.arange(sizes[group[0]])
        real = offsets < lengths[group, None]
        tokens = torch.where(real, starts[group, None] + offsets, 0)
        branch = torch.where(real, branches[tokens], -1)
        position = torch.where(real, positions[tokens], 0)
        ecgs = torch.where(real, more[0][tokens], 0).to(table.device) if more else None
        shared = branch.to(table.device) if bool((branch > 0).any()) else None
        there.append(tokens.reshape(-1))
        filled.append(torch.where(real, tokens, -1).reshape(-1))
        made.append(_Group(tokens.to(table.device), position.to(table.device), shared, ecgs, int(position.max())))
    places, tokens_at = torch.cat(there), torch.cat(filled)
    back = torch.empty(len(documents), dtype=torch.int64)
    real_places = torch.nonzero(tokens_at >= 0)[:, 0]
    back[tokens_at[real_places]] = real_places
    return _Blocks(made, places.to(table.device), back.to(table.device), tokens_at.to(table.device))


@torch.compiler.disable  # the documents' lengths are another program for every batch
def _within_documents(
    attend: Callable[..., tuple[torch.Tensor, Any]],
    eager: bool,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    table: torch.Tensor,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """``attend`` on every document of a row; query ``(1, heads, length, size)`` → ``(1, length, heads, size)``."""
    blocks = _blocks(table)
    window = options.pop("sliding_window", None)
    options.pop("position_ids", None)  # of the row, not of the groups
    side_by_side = [_Select.apply(x[0].transpose(0, 1), blocks.there, blocks.back) for x in (query, key, value)]
    results = []
    at = 0
    for group in blocks.groups:
        num_documents, size = group.tokens.shape
        q, k, v = (
            x[at : at + num_documents * size].unflatten(0, (num_documents, size)).transpose(1, 2) for x in side_by_side
        )
        mask = group.mask(window, query.dtype if eager else None)
        results.append(attend(module, q, k, v, mask, **options)[0].flatten(0, 1))
        at += num_documents * size
    joined = results[0] if len(results) == 1 else torch.cat(results)
    return _Select.apply(joined, blocks.back, blocks.filled)[None], None


def packed_sdpa(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    """``sdpa``, and within documents for a packed row."""
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if not is_document_table(attention_mask):
        return attend(module, query, key, value, attention_mask, **options)
    return _within_documents(attend, False, module, query, key, value, attention_mask, **options)


def packed_eager(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    """The family's own ``eager`` attention, and within documents for a packed row."""
    attend = sys.modules[type(module).__module__].eager_attention_forward
    if not is_document_table(attention_mask):
        return attend(module, query, key, value, attention_mask, **options)
    return _within_documents(attend, True, module, query, key, value, attention_mask, **options)


AttentionInterface.register(NAMES["sdpa"], packed_sdpa)
AttentionInterface.register(NAMES["eager"], packed_eager)
AttentionMaskInterface.register(NAMES["sdpa"], sdpa_mask)
AttentionMaskInterface.register(NAMES["eager"], eager_mask)


def prepare_packing(llm: Any) -> bool:
    """Make a language model ready for packed rows; whether they come with a ``document_table`` (else positions alone
    tell the documents apart, as flash attention reads them).

    ConfigError for a model whose documents would see one another, found by trying it on two.
    """
    used = llm.config._attn_implementation
    if used not in (*NAMES, *NAMES.values()):
        return False
    if used in NAMES:
        llm.set_attn_implementation(NAMES[used])
    if not _keeps_apart(llm):
        llm.set_attn_implementation(used)
        raise ConfigError(
            f"train.packing: the attention of {type(llm).__name__} cannot keep packed documents apart; "
            "set train.packing: false"
        )
    return True


@torch.no_grad()
def _keeps_apart(llm: Any) -> bool:
    """Whether two documents in one row give what each gives alone; an attention of its own ignores our table."""
    was_training = llm.training
    llm.eval()
    device = next(llm.parameters()).device
    ids = torch.arange(1, 12, device=device)[None] % llm.config.get_text_config().vocab_size
    positions = np.r_[np.arange(5), np.arange(6)]
    table = document_table(np.repeat([0, 1], [5, 6]), np.zeros(11), positions).to(device)
    position_ids = torch.from_numpy(positions)[None].to(device)
    try:
        packed = llm(input_ids=ids, attention_mask=table, position_ids=position_ids, use_cache=False).logits
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    finally:
        llm.train(was_training)
    alone = []
    llm.eval()
    for part in (slice(0, 5), slice(5, 11)):
        ones = torch.ones_like(ids[:, part])
        alone.append(llm(input_ids=ids[:, part], attention_mask=ones, use_cache=False).logits)
    llm.train(was_training)
    wanted = torch.cat(alone, 1).float()
    tolerance = 1e-4 if packed.dtype == torch.float32 else 0.05
    return bool((packed.float() - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max())))
