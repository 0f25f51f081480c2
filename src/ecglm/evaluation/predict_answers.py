"""From a batch of jobs to its rows: what each control shows in place of the ECG, turn after turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.answerers.pictures import blank_paper, noise_picture
from ecglm.evaluation.controls import Control, apply_control, remove_marks
from ecglm.evaluation.predict_jobs import Job, Rows, answers_of, control_of
from ecglm.evaluation.predict_rag import RagOrders, job_queries, row_of
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.generate import Memory, Sampling, generate
from ecglm.prompts.data import EcgSource
from ecglm.prompts.pictures import is_picture_id
from ecglm.prompts.retrieved import Retrieved
from ecglm.randomness import generator_for
from ecglm.store.reader import SegmentStore
from ecglm.types import ECG_MARK, EcgInput, Example, Turn


@dataclass(frozen=True)
class Orders:
    """What every process of a prediction is told; plain data.

    model: checkpoint folder. partners: ECG → the one shown in its place under ``swap``. seed: of the controls.
    temperature: None for greedy answers. rag: None where the prompts tell of no other ECGs.
    """

    model: str
    stores: tuple[str, ...]
    images: tuple[str, ...] = ()
    partners: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    history: str = "own"
    max_new_tokens: int = 128
    temperature: float | None = None
    top_p: float = 1.0
    rag: RagOrders | None = None


def start(orders: Orders, device: str) -> Callable[[Sequence[Job]], list[Rows]]:
    """Load the model on a device; what comes back answers batches (``shards.run_shards``)."""
    bundle = from_pretrained(orders.model, verify=False)
    bundle.elm.to(device)
    return Answerer(bundle, orders).answer


class Answerer:
    """Answers batches of jobs."""

    def __init__(self, bundle: Bundle, orders: Orders) -> None:
        self.bundle, self.orders = bundle, orders
        self.ecgs = EcgSource([SegmentStore(s) for s in orders.stores], bundle.representation, orders.images)
        self._kept: dict[Any, EcgInput | RejectedRecord] = {}
        self._told: dict[tuple[str, str], tuple[list[str], Retrieved]] = {}
        self._neighbours = None
        if orders.rag is not None:
            from ecglm.retrieval.neighbours import read_neighbours  # loads much, which few predictions need

            self.bundle = bundle.with_rag(orders.rag.options)
            self._neighbours = read_neighbours(orders.rag.neighbours)

    def answer(self, jobs: Sequence[Job]) -> list[Rows]:
        """Rows of each job, its turns in order. Where a GPU's memory does not hold them all, one half, then the other;
        EcglmError where it does not hold one.
        """
        try:
            return self._answer(jobs)
        except torch.OutOfMemoryError as error:
            if len(jobs) == 1:
                name = jobs[0].conversation.id
                raise EcglmError(
                    f"{name}: the GPU has no memory for this question alone; lower --max-new-tokens"
                ) from error
        torch.cuda.empty_cache()
        half = len(jobs) // 2
        return [*self.answer(jobs[:half]), *self.answer(jobs[half:])]

    def _answer(self, jobs: Sequence[Job]) -> list[Rows]:
        self._kept.clear()
        self._told.clear()
        rows: list[Rows] = [[] for _ in jobs]
        talks: list[list[Turn]] = [[] for _ in jobs]
        shown = [self._show(job) for job in jobs]
        longest = max(job.num_answers for job in jobs)
        memory = Memory() if longest > 1 else None
        for turn in range(longest):
            asked = [i for i, j in enumerate(jobs) if turn < j.num_answers]
            examples, failures = {}, {}
            for i in asked:
                talks[i].extend(_question(jobs[i], turn))
                try:
                    examples[i] = replace(
                        self._prompt(jobs[i], talks[i], shown[i]), id=f"{jobs[i].conversation.id}/{turn}"
                    )
                except RejectedRecord as error:
                    failures[i] = str(error)
            answers = self._generate(jobs, examples, memory)
            for i in asked:
                rows[i].append(self._row(jobs[i], turn, talks[i][-1].text, answers.get(i), failures.get(i)))
                ecgs = shown[i]
                if not isinstance(ecgs, str) and any(e.shown for e in ecgs):
                    rows[i][-1]["ecg_shown"] = [dict(e.shown) for e in ecgs]  # lead → share, {} where all of it
                if self.orders.rag is not None:
                    rows[i][-1] |= {"rag": row_of(self.orders.rag.options), "retrieved": self._tell(jobs[i])[0]}
                    if i in examples and (cut := [t for t in examples[i].truncated if t.endswith("_neighbour")]):
                        rows[i][-1]["retrieved_cut"] = cut
                gold = answers_of(jobs[i].conversation)[turn]
                own = (answers.get(i) or {}).get("text") or ""
                talks[i].append(Turn("assistant", gold if self.orders.history == "gold" else own))
        return rows

    def _generate(
        self, jobs: Sequence[Job], examples: Mapping[int, Example], memory: Memory | None
    ) -> dict[int, dict[str, Any]]:
        orders = self.orders
        drawn = None
        if orders.temperature is not None:
            drawn = [Sampling(orders.temperature, orders.top_p, jobs[i].seed) for i in examples]
        answers = generate(
            self.bundle.elm,
            self.bundle.prompter,
            list(examples.values()),
            max_new_tokens=orders.max_new_tokens,
            sampling=drawn,
            memory=memory,
            talks=list(examples),
        )
        return dict(zip(examples, answers, strict=True))

    def _show(self, job: Job) -> list[EcgInput] | str:
        """The ECGs of a job as the model reads them under its control, or why that cannot be."""
        control = control_of(job.control)
        if control is not None and control.removes_ecg:
            return []
        shown = []
        for number, ecg in enumerate(self.ecgs.shown(job.conversation)):
            source = self.orders.partners[ecg] if control is not None and control.swaps else ecg
            row_id = f"{job.conversation.id}/{number}"
            plain = control is None or control.swaps
            key = source if plain else (job.control, source, row_id)
            if key not in self._kept:
                try:
                    self._kept[key] = self._ecg(source, job.control, None if plain else control, row_id)
                except RejectedRecord as error:
                    self._kept[key] = error.with_traceback(None)
            found = self._kept[key]
            if isinstance(found, RejectedRecord):
                return str(found)
            shown.append(found)
        return shown

    def _ecg(self, ecg: str, name: str, control: Control | None, row_id: str) -> EcgInput:
        representation = self.bundle.representation
        if is_picture_id(ecg):
            picture = self._picture(self.ecgs.pictures.read(ecg), name, control, row_id)
            of_picture: EcgInput = representation.of_picture(picture)
            return of_picture
        segment, rate = self.ecgs.segment(ecg), self.ecgs.rate(ecg)
        if control is not None:
            segment = apply_control(name, segment, rate, seed=self.orders.seed, row_id=row_id)
        found: EcgInput = representation(segment, rate)
        if control is not None and control.hides:
            found = representation.without(found, control.hides)
        return found

    def _picture(self, picture: np.ndarray, name: str, control: Control | None, row_id: str) -> np.ndarray:
        """A picture file as a control shows it: there are no samples to change, but pixels."""
        if control is None:
            return picture
        if name == "blank":
            return blank_paper(*picture.shape[:2])
        if name == "noise":
            return noise_picture(picture, generator_for(self.orders.seed, name, row_id))
        raise RejectedRecord("control_needs_signal", f"{name} changes samples, and a picture file has none")

    def _tell(self, job: Job) -> tuple[list[str], Retrieved]:
        """What is told of neighbours, with the ids of those found, for the rows."""
        if self.orders.rag is None or self._neighbours is None:
            return [], Retrieved()
        key = job.control, job.conversation.id
        if key not in self._told:
            found = self._neighbours.of(job_queries(job, self.orders.rag, self.orders.partners))
            self._told[key] = [hit.segment_id for hit in found], self.bundle.prompter.tell(found)
        return self._told[key]

    def _prompt(self, job: Job, talk: Sequence[Turn], shown: list[EcgInput] | str) -> Example:
        if isinstance(shown, str):
            raise RejectedRecord("ecg_unusable", shown)
        marks = sum(t.text.count(ECG_MARK) for t in talk if t.role != "assistant")  # some may stand in a later turn
        return self.bundle.prompter.build(
            job.conversation.id, talk, shown[:marks], generate=True, retrieved=self._tell(job)[1]
        )

    def _row(
        self, job: Job, turn: int, question: str, answer: Mapping[str, Any] | None, failure: str | None
    ) -> dict[str, Any]:
        conversation = job.conversation
        row: dict[str, Any] = {
            "id": conversation.id,
            "ecgs": list(conversation.ecgs),
            "task": conversation.task,
            "turn": turn,
            "prompt": question,
            "reference": answers_of(conversation)[turn],
            "prediction": answer["text"] if answer else None,
            "control": job.control,
            "seed": job.seed,
            "patient_id": conversation.patients[0] if conversation.patients else "",
            "truncated": bool(answer and answer["truncated"]),
            "metadata": dict(conversation.metadata),
        }
        if answer and not answer["text"]:
            row["empty"] = True
        control = control_of(job.control)
        if control is not None and control.swaps:
            row["shown"] = [self.orders.partners[e] for e in self.ecgs.shown(conversation)]
        if failure is not None:
            row["error"] = failure
        return row


def _question(job: Job, turn: int) -> list[Turn]:
    """The turns between the previous answer and answer number ``turn``, without ECG marks where none is shown."""
    turns = job.conversation.turns
    at = [i for i, t in enumerate(turns) if t.role == "assistant"]
    between = turns[at[turn - 1] + 1 if turn else 0 : at[turn]]
    control = control_of(job.control)
    if control is not None and control.removes_ecg:
        return [Turn(t.role, remove_marks(t.text)) for t in between]
    return list(between)
