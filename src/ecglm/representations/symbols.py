"""The ECG as text: ECG-Byte symbols as tokens of the language model itself (arXiv 2412.14373), no encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ecglm.config import coerce, describe
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import (
    BuildContext,
    RecipeOptions,
    Representation,
    check_leads,
    reduce_rate,
    select_leads,
    spread_evenly,
)
from ecglm.representations.ecg_byte import EcgByte
from ecglm.representations.normalise import pair_problem, read_amplitudes
from ecglm.types import LEADS, EcgInput

TOKENIZER_FILE = "ecg_byte.json"
POLICIES = ("error", "balanced", "tail")

_KEYS: dict[str, Any] = {
    "rate": int | None,
    "leads": list[str],
    "max_ecg_tokens": int | None,
    "policy": Literal["error", "balanced", "tail"],
    "lead_tokens": bool,
    "compact_vocab": bool,
    "tokenizer": str,
}


@dataclass(frozen=True, kw_only=True)
class SymbolsOptions(RecipeOptions):
    """Show the ECG as ECG-Byte symbols (arXiv 2412.14373). The tokenizer is trained on ``train_segments`` training
    segments of the run's stores, or read from ``tokenizer``. normalise: ``instance``, the segment's own range, or
    ``percentile``, that of the file ``percentiles`` (``ecglm store percentiles``). max_ecg_tokens: None never cuts.
    policy: what happens to an ECG beyond it, in training and in use alike: ``balanced`` keeps an equal share of every
    lead, ``tail`` cuts the end off, so that the last leads are not seen, ``error`` refuses it. lead_tokens: name each
    lead before its symbols. compact_vocab: only ids that an ECG can be encoded to become tokens of the LLM.
    """

    leads: tuple[str, ...] = ()
    rate: int | None = None
    num_merges: int = 500
    boundary: Literal["none", "segment", "lead"] = "lead"
    normalise: Literal["instance", "percentile"] = "instance"
    percentiles: str | None = None
    train_segments: int = 500
    tokenizer: str | None = None
    max_ecg_tokens: int | None = None
    policy: Literal["error", "balanced", "tail"] = "balanced"
    lead_tokens: bool = True
    compact_vocab: bool = True

    def __post_init__(self) -> None:
        problem = pair_problem(self.normalise, self.percentiles, "symbols.normalise", "symbols.percentiles")
        if self.tokenizer:  # it says itself how it normalises
            problem = "symbols.percentiles: the tokenizer has its own; leave them out" if self.percentiles else None
        if problem:
            raise ValueError(problem)

    def files(self) -> dict[str, str]:
        """The tokenizer or the percentiles, where they are named."""
        named = {"tokenizer": self.tokenizer, "percentiles": self.percentiles}
        return {option: path for option, path in named.items() if path}


@dataclass(frozen=True)
class _Encoded:
    """A segment's tokens, lead names among them, before the length policy.

    ids: into ``added_tokens``. spans: ``(num_tokens, 2)``, first and past-the-last symbol of each in the shown leads
    one after the other; empty for a lead's name. kept: which of them the policy keeps. num_samples: per lead.
    """

    ids: np.ndarray
    spans: np.ndarray
    kept: np.ndarray
    num_samples: int


@register("representations", "symbols")
class SymbolsRepresentation(Representation):
    """Symbol tokens of a segment, lead by lead.

    tokenizer: an EcgByte, trained on the same leads and rate (``train_symbols`` does both in one call). rate: Hz at
    which the ECG is encoded, a divisor of the segment's rate, anti-aliased; None keeps the segment's. leads: which, in
    this order. max_ecg_tokens: most tokens an ECG may take, the same in training and in use; a blank or noisy ECG
    takes several times those of an ordinary one. policy: what happens beyond: ``error``; ``balanced``: every lead
    keeps its first tokens, an equal share each; ``tail``: the end is cut off, as ECG-Bench does in training, and with
    it the last leads. What was cut is told in ``EcgInput.truncated`` and ``EcgInput.shown``. lead_tokens: a token with
    the lead's name before each lead, where the tokenizer's boundary is ``lead`` (otherwise a token may belong to two
    leads, and none is added).

    compact_vocab: only ids an ECG can be encoded to become LLM tokens: ``signal_97`` … ``signal_122`` and the merges
    of them; otherwise every id of the tokenizer does. They stand in ascending order, or in that of a legacy tokenizer.
    """

    name: ClassVar[str] = "symbols"
    Options: ClassVar[type[RecipeOptions]] = SymbolsOptions
    placeholder = None
    num_tokens = None

    def __init__(
        self,
        tokenizer: EcgByte,
        *,
        rate: int | None = None,
        leads: Sequence[str] = LEADS,
        max_ecg_tokens: int | None = None,
        policy: str = "balanced",
        lead_tokens: bool = True,
        compact_vocab: bool = True,
    ) -> None:
        self.tokenizer, self.rate, self.leads = tokenizer, rate, check_leads(leads)
        self.max_ecg_tokens, self.policy = max_ecg_tokens, policy
        self.lead_tokens, self.compact_vocab = lead_tokens, compact_vocab
        if rate is not None and rate < 1:
            raise EcglmError(f"rate: must be at least 1 Hz, not {rate}")
        if policy not in POLICIES:
            raise EcglmError(f"policy: no '{policy}'{nearest(policy, POLICIES)}; one of {', '.join(POLICIES)}")
        vocabulary = tokenizer.reachable.tolist() if compact_vocab else list(range(tokenizer.vocab_size))
        if tokenizer.legacy_vocab_order is not None:  # decides the LLM's ids in checkpoints of the original
            kept = set(vocabulary)
            vocabulary = [i for i in tokenizer.legacy_vocab_order if i in kept]
        self._index = np.full(tokenizer.vocab_size, -1, np.int64)
        self._index[vocabulary] = np.arange(len(vocabulary))
        self._named = lead_tokens and tokenizer.boundary == "lead"
        lead_names = tuple(f"<lead_{lead}>" for lead in self.leads) if self._named else ()
        self.added_tokens = tuple(f"signal_{i}" for i in vocabulary) + lead_names
        least = len(self.leads) * (2 if self._named else 1)
        if max_ecg_tokens is not None and max_ecg_tokens < least:
            raise EcglmError(f"max_ecg_tokens: must be at least {least} for {len(self.leads)} leads")

    @property
    def input_shape(self) -> None:
        """No tensor."""
        return None

    def __call__(self, segment: np.ndarray, rate: int) -> EcgInput:
        """segment: ``(12, num_samples)`` in mV at ``rate`` Hz, canonical leads.

        Raises EcglmError for another shape, NaN or infinity, a rate that ``self.rate`` does not divide, or, under the
        policy ``error``, more than ``max_ecg_tokens`` tokens.
        """
        found = self._encode(segment, rate)
        if found.kept.all():
            return EcgInput(found.ids)
        num_kept, total = int(found.kept.sum()), len(found.kept)
        if self.policy == "error":
            raise EcglmError(
                f"max_ecg_tokens: the ECG takes {total} tokens, {self.max_ecg_tokens} are allowed; raise it, lower the "
                "rate, show fewer leads, or use policy 'balanced'"
            )
        lengths = found.spans[:, 1] - found.spans[:, 0]
        shares = np.repeat(found.kept, lengths).reshape(len(self.leads), -1).mean(axis=1)
        shown = {lead: round(float(share), 4) for lead, share in zip(self.leads, shares, strict=True)}
        told = f"ecg_tokens: {num_kept} of {total} kept, policy {self.policy}"
        return EcgInput(found.ids[found.kept], None, (told,), shown=shown)

    def _encode(self, segment: np.ndarray, rate: int) -> _Encoded:
        tokens = self.tokenizer.encode(reduce_rate(select_leads(segment, self.leads), rate, self.rate))
        ids, spans = self._index[tokens.ids], tokens.spans
        lead = spans[:, 0] // tokens.shape[1]
        starts = np.searchsorted(lead, np.arange(len(self.leads)))
        place = np.arange(len(ids)) - starts[lead]  # within its lead
        if self._named:
            first = len(self.added_tokens) - len(self.leads)
            ids = np.insert(ids, starts, np.arange(first, len(self.added_tokens)))
            spans = np.insert(spans, starts, np.arange(len(self.leads))[:, None] * tokens.shape[1], axis=0)
            place = np.insert(place, starts, -1)
        total, most = len(ids), self.max_ecg_tokens
        if most is None or total <= most:
            kept = np.ones(total, bool)
        elif self.policy == "balanced":
            kept = place < (most - (len(self.leads) if self._named else 0)) // len(self.leads)
        else:
            kept = np.arange(total) < most
        return _Encoded(ids, spans, kept, tokens.shape[1])

    def spread(self, weights: np.ndarray, segment: np.ndarray, rate: int) -> np.ndarray:
        """Each token's weight over the samples of its span, evenly; the names of leads stand for no sample."""
        found, num_samples = self._encode(segment, rate), segment.shape[1]
        spans = found.spans[found.kept]
        lengths = spans[:, 1] - spans[:, 0]
        at = np.repeat(np.arange(len(spans)), lengths)
        where = np.repeat(spans[:, 0] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        encoded = np.zeros((*weights.shape[:-1], len(self.leads) * found.num_samples))
        encoded[..., where] = weights[..., at] / lengths[at]
        factor = 1 if self.rate is None else rate // self.rate
        edges = np.minimum(np.arange(found.num_samples + 1) * factor, num_samples)
        out = np.zeros((*weights.shape[:-1], len(LEADS), num_samples))
        rows = [LEADS.index(lead) for lead in self.leads]
        out[..., rows, :] = spread_evenly(encoded.reshape(*encoded.shape[:-1], len(rows), -1), edges, num_samples)
        return out

    @classmethod
    def from_recipe(cls, options: SymbolsOptions, context: BuildContext) -> SymbolsRepresentation:
        """With the tokenizer the options name, or one trained on some of the run's training ECGs."""
        leads = options.leads or LEADS
        limits = {
            "max_ecg_tokens": options.max_ecg_tokens,
            "policy": options.policy,
            "lead_tokens": options.lead_tokens,
            "compact_vocab": options.compact_vocab,
        }
        if options.tokenizer:
            return cls(EcgByte.load(options.tokenizer), leads=leads, rate=options.rate, **limits)  # type: ignore[arg-type]
        records = context.records
        if not records:
            raise EcglmError("no training conversation shows an ECG to learn symbols from; name symbols.tokenizer")
        chosen = np.random.default_rng(context.seed).permutation(len(records))[: options.train_segments]
        return train_symbols(
            np.stack([context.segment(records[i]) for i in sorted(chosen)]),
            context.rate,
            leads=leads,
            target_rate=options.rate,
            num_merges=options.num_merges,
            boundary=options.boundary,
            normalise=options.normalise,
            percentiles=read_amplitudes(options.normalise, options.percentiles)[0],
            seed=context.seed,
            **limits,  # type: ignore[arg-type]
        )

    def config(self) -> dict[str, Any]:
        """Every option, the name, and the fingerprint of the tokenizer that ``save`` writes."""
        return {
            "name": self.name,
            "rate": self.rate,
            "leads": list(self.leads),
            "max_ecg_tokens": self.max_ecg_tokens,
            "policy": self.policy,
            "lead_tokens": self.lead_tokens,
            "compact_vocab": self.compact_vocab,
            "tokenizer": self.tokenizer.fingerprint,
        }

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the tokenizer to ``ecg_byte.json`` in ``folder``."""
        self.tokenizer.save(Path(folder) / TOKENIZER_FILE)
        return [TOKENIZER_FILE]

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], folder: str | os.PathLike[str] | None = None
    ) -> SymbolsRepresentation:
        """Rebuild from ``config()`` and the folder of ``save``; EcglmError when its tokenizer is another one."""
        values = {}
        for key, value in config.items():
            if key == "name":
                continue
            if key not in _KEYS:
                raise ConfigError(f"representation 'symbols': unknown key '{key}'{nearest(key, _KEYS)}")
            try:
                values[key] = coerce(value, _KEYS[key])
            except TypeError:
                raise ConfigError(
                    f"representation 'symbols': {key} must be {describe(_KEYS[key])}, found {value!r}"
                ) from None
        if "tokenizer" not in values:
            raise ConfigError("representation 'symbols': key 'tokenizer' is missing")
        if folder is None:
            raise EcglmError(f"representation 'symbols': the folder that holds {TOKENIZER_FILE} is needed")
        tokenizer = EcgByte.load(Path(folder) / TOKENIZER_FILE)
        wanted = values.pop("tokenizer")
        if tokenizer.fingerprint != wanted:
            raise EcglmError(
                f"{Path(folder) / TOKENIZER_FILE}: is another tokenizer (fingerprint {tokenizer.fingerprint}) than the "
                f"one of this representation ({wanted}); restore the file it was saved with"
            )
        return cls(tokenizer, **values)


def train_symbols(
    segments: Iterable[np.ndarray],
    rate: int,
    *,
    leads: Sequence[str] = LEADS,
    target_rate: int | None = None,
    num_merges: int = 3500,
    normalise: str = "instance",
    boundary: str = "lead",
    percentiles: Mapping[str, float] | None = None,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> SymbolsRepresentation:
    """A tokenizer trained on exactly what will be encoded, and its representation.

    segments: ``(12, num_samples)`` each, mV, at ``rate`` Hz, canonical leads, of training patients alone.
    target_rate: Hz to encode at, a divisor of ``rate``, or None for ``rate``. The rest as in ``EcgByte.train``.
    options: of ``SymbolsRepresentation``.
    """
    leads, target = check_leads(leads), target_rate or rate
    tokenizer = EcgByte.train(
        (reduce_rate(select_leads(segment, leads), rate, target) for segment in segments),
        num_merges,
        normalise=normalise,
        boundary=boundary,
        percentiles=percentiles,
        seed=seed,
        progress=progress,
    )
    return SymbolsRepresentation(tokenizer, rate=target, leads=leads, **options)
