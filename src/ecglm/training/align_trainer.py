"""The trainer of preference pairs: the reference's log-probabilities first, then ``StatefulTrainer`` and metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy

from ecglm.files import atomic_path, fingerprint
from ecglm.models.checkpoint import Bundle, save_pretrained, writing_weights
from ecglm.prompts.data import EpochSampler
from ecglm.training.align_recipe import AlignRecipe
from ecglm.training.distributed import from_main, ranks, wait
from ecglm.training.logprobs import answer_logits, likeliest, owners
from ecglm.training.logs import METRICS
from ecglm.training.objectives.dpo import Preference, stand_still, told
from ecglm.training.pairs_data import PairDataset, Reference, collate_pairs
from ecglm.training.stateful import STATES, StatefulTrainer
from ecglm.training.trainer import load_weights_of, save_weights_of

REFERENCE = "reference.safetensors"
SPLITS, PARTS = ("train", "val"), ("tokens", "ids", "logp")
#: Tokens that the reference held likeliest, kept of each position for the KL: 64 bytes a token.
LIKELIEST = 8


class AlignTrainer(StatefulTrainer):
    """Trains ``bundle.elm`` on pairs into ``out``, with ``best/`` by validation loss per pair.

    The model as it is handed over is the reference: it is asked once for the log-probabilities of all answers, before
    the first step, and nothing of it has to be kept. Rows of ``metrics.jsonl`` have those of ``objectives.dpo.told``.
    """

    def __init__(
        self,
        bundle: Bundle,
        train: PairDataset,
        val: PairDataset,
        recipe: AlignRecipe,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        self.objective: Preference = Preference(
            recipe.method, recipe.beta, label_smoothing=recipe.label_smoothing, mean=recipe.per_token
        )
        self.told: dict[str, float] = {}
        self.pairs = (train, val)
        config = recipe.train
        super().__init__(
            bundle.elm,
            self.objective,
            train,
            val,
            config,
            out,
            say,
            collate=functools.partial(collate_pairs, pad_id=bundle.prompter.tokenizer.pad_token_id),
            sampler=EpochSampler(train.lengths, config.batch_size * config.accumulation, config.seed),
            save_weights=functools.partial(save_weights_of, bundle),
            load_weights=functools.partial(load_weights_of, bundle),
            save_best=lambda facts: save_pretrained(bundle, out / "best", {**facts, **self.told}),
            measure=self.objective.measure,
            width=bundle.elm.llm.get_input_embeddings().weight.shape[1],
            compiled=bundle.elm.llm,
            needs_ecg=bundle.elm.encoder is not None,
        )

    def remember(self) -> bool:
        """Give the datasets their reference: from ``states/reference.safetensors``, as a killed run left it there, or
        by asking the model, which must not have learned yet. Whether it was asked.
        """
        file = self.out / STATES / REFERENCE
        pairs = fingerprint([d.rows for d in self.pairs])
        known = bool(from_main(lambda: _holds(file, pairs)))
        if not known:
            found = [self._ask(d) for d in self.pairs]
            if self.args.should_save:
                file.parent.mkdir(parents=True, exist_ok=True)
                flat = {
                    f"{split}.{part}": np.concatenate([getattr(r, part) for r in rows])
                    for split, rows in zip(SPLITS, found, strict=True)
                    for part in PARTS
                }
                with writing_weights(file), atomic_path(file) as temporary:
                    save_file(flat, temporary, metadata={"pairs": pairs})
        wait()
        with safe_open(file, "np") as saved:
            for d, split in zip(self.pairs, SPLITS, strict=True):
                ends = np.cumsum([d[i].num_tokens for i in range(len(d))])[:-1]
                parts = [np.split(saved.get_tensor(f"{split}.{part}"), ends) for part in PARTS]
                d.reference = [Reference(*row) for row in zip(*parts, strict=True)]
        return not known

    def _ask(self, data: PairDataset) -> list[Reference]:
        """Log-probabilities of the answer tokens of every pair; each process asks about its share of the batches."""
        model: Any = self.model
        model.eval()
        stand_still(model)
        order = np.argsort(data.lengths, kind="stable")
        size = self.config.batch_size
        batches = [order[i : i + size].tolist() for i in range(0, len(order), size)]
        found: dict[int, Reference] = {}
        collate: Any = self.data_collator
        for at in batches[ranks().rank :: ranks().size]:
            batch = collate([data[i] for i in at])
            batch.pop("facts")
            batch = self._prepare_inputs(batch)
            with torch.inference_mode(), self.compute_loss_context_manager():
                logits, targets = answer_logits(model, batch)
                tokens = -cross_entropy(logits, targets, reduction="none")
                ids, logp = likeliest(logits, LIKELIEST)
            arrays = [t.cpu().numpy() for t in (tokens, ids, logp)]
            pair = (owners(batch) // 2).cpu().numpy()
            found |= {i: Reference(*(a[pair == number] for a in arrays)) for number, i in enumerate(at)}
        if self.args.world_size > 1:
            shares: list[dict[int, Reference]] = [{} for _ in range(self.args.world_size)]
            torch.distributed.all_gather_object(shares, found)
            found = {i: kept for share in shares for i, kept in share.items()}
        return [found[i] for i in range(len(data))]

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.step_row |= told(self._of_all(self.objective.take()))
        return norm

    def _of_all(self, sums: list[float]) -> list[float]:
        return self._sum_over_ranks(sums) if self.args.world_size > 1 else sums

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.objective.take()
        return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "eval_loss" not in logs:
            super().log(logs, start_time)
            return
        self.told = told(self._of_all(self.objective.take()), "val_")
        logs |= {name.replace("val_", "eval_", 1): value for name, value in self.told.items()}
        super().log(logs, start_time)
        self.steps.pending[METRICS][-1] |= {k: v for k, v in logs.items() if k.startswith("eval_")}


def _holds(file: Path, pairs: str) -> bool:
    if not file.is_file():
        return False
    with safe_open(file, "np") as saved:
        return bool((saved.metadata() or {}).get("pairs") == pairs)
