"""The ECG as text: ECG-Byte symbols as tokens of the language model itself (arXiv 2412.14373), no encoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ecglm.config import coerce, describe
from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.registry import register
from ecglm.representations.base import Representation, check_leads, reduce_rate, select_leads
from ecglm.representations.ecg_byte import EcgByte
from ecglm.types import LEADS, EcgInput

TOKENIZER_FILE = "ecg_byte.json"

_KEYS: dict[str, Any] = {
    "rate": int | None,
    "leads": list[str],
    "max_ecg_tokens": int | None,
    "policy": Literal["error", "balanced"],
    "lead_tokens": bool,
    "tokenizer": str,
}


@register("representations", "symbols")
class SymbolsRepresentation(Representation):
    """Symbol tokens of a segment, lead by lead.

    tokenizer: an EcgByte, trained on the same leads and rate (``train_symbols`` does both in one call). rate: Hz at
    which the ECG is encoded, a divisor of the segment's rate, anti-aliased; None keeps the segment's. leads: which, in
    this order. max_ecg_tokens: most tokens an ECG may take, the same in training and in use; a blank or noisy ECG
    takes several times those of an ordinary one. policy: what happens beyond: ``error``, or ``balanced``: every lead
    keeps its first tokens, an equal share each, reported in ``EcgInput.truncated``. lead_tokens: a token with the
    lead's name before each lead, where the tokenizer's boundary is ``lead`` (otherwise a token may belong to two
    leads, and none is added).

    Only ids an ECG can be encoded to become LLM tokens: ``signal_97`` … ``signal_122`` and the merges of them.
    """

    name: ClassVar[str] = "symbols"
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
    ) -> None:
        self.tokenizer, self.rate, self.leads = tokenizer, rate, check_leads(leads)
        self.max_ecg_tokens, self.policy, self.lead_tokens = max_ecg_tokens, policy, lead_tokens
        if rate is not None and rate < 1:
            raise EcglmError(f"rate: must be at least 1 Hz, not {rate}")
        if policy not in ("error", "balanced"):
            raise EcglmError(f"policy: no '{policy}'{nearest(policy, ('error', 'balanced'))}; 'error' or 'balanced'")
        reachable = tokenizer.reachable.tolist()
        if tokenizer.legacy_vocab_order is not None:  # decides the LLM's ids in checkpoints of the original
            kept = set(reachable)
            reachable = [i for i in tokenizer.legacy_vocab_order if i in kept]
        self._index = np.full(tokenizer.vocab_size, -1, np.int64)
        self._index[reachable] = np.arange(len(reachable))
        self._named = lead_tokens and tokenizer.boundary == "lead"
        lead_names = tuple(f"<lead_{lead}>" for lead in self.leads) if self._named else ()
        self.added_tokens = tuple(f"signal_{i}" for i in reachable) + lead_names
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
        tokens = self.tokenizer.encode(reduce_rate(select_leads(segment, self.leads), rate, self.rate))
        ids, lead = self._index[tokens.ids], tokens.spans[:, 0] // tokens.shape[1]
        num_named = len(self.leads) if self._named else 0
        total, most = len(ids) + num_named, self.max_ecg_tokens
        truncated: tuple[str, ...] = ()
        if most is not None and total > most:
            if self.policy == "error":
                raise EcglmError(
                    f"max_ecg_tokens: the ECG takes {total} tokens, {most} are allowed; raise it, lower the rate, show "
                    "fewer leads, or use policy 'balanced'"
                )
            share = (most - num_named) // len(self.leads)
            kept = np.arange(len(ids)) - np.searchsorted(lead, lead) < share
            ids, lead = ids[kept], lead[kept]
            truncated = (f"ecg_tokens: {len(ids) + num_named} of {total} kept, at most {share} symbols per lead",)
        if self._named:
            starts = np.searchsorted(lead, np.arange(len(self.leads)))
            first = len(self.added_tokens) - len(self.leads)
            ids = np.insert(ids, starts, np.arange(first, len(self.added_tokens)))
        return EcgInput(ids, None, truncated)

    def config(self) -> dict[str, Any]:
        """Every option, the name, and the fingerprint of the tokenizer that ``save`` writes."""
        return {
            "name": self.name,
            "rate": self.rate,
            "leads": list(self.leads),
            "max_ecg_tokens": self.max_ecg_tokens,
            "policy": self.policy,
            "lead_tokens": self.lead_tokens,
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
    max_ecg_tokens: int | None = None,
    policy: str = "balanced",
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SymbolsRepresentation:
    """A tokenizer trained on exactly what will be encoded, and its representation.

    segments: ``(12, num_samples)`` each, mV, at ``rate`` Hz, canonical leads, of training patients alone.
    target_rate: Hz to encode at, a divisor of ``rate``, or None for ``rate``. The rest as in ``EcgByte.train`` and
    ``SymbolsRepresentation``.
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
    return SymbolsRepresentation(tokenizer, rate=target, leads=leads, max_ecg_tokens=max_ecg_tokens, policy=policy)
