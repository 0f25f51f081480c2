"""``ecglm predict --rag``: the neighbours of what each question shows, under every control, found before any answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecglm import config as strict
from ecglm.errors import EcglmError
from ecglm.evaluation.controls import apply_control
from ecglm.evaluation.predict_jobs import Job, control_of
from ecglm.prompts.data import EcgSource
from ecglm.prompts.retrieved import RagOptions

if TYPE_CHECKING:  # it loads much, which a prediction without retrieval need not wait for: at run time late
    from ecglm.retrieval.index import Index
    from ecglm.retrieval.neighbours import Query

#: Where a prediction keeps what was found.
FOLDER = "neighbours"


@dataclass(frozen=True)
class RagOrders:
    """What every process of a prediction is told of retrieval; plain data. neighbours: the folder of what was found.
    patients: ECG → patient, of all ECGs that are asked about. seed: of the controls.
    """

    options: RagOptions
    neighbours: str
    patients: Mapping[str, str]
    seed: int


def read_index(folder: str | Path) -> Index:
    """The index of a prediction."""
    from ecglm.retrieval.index import Index

    return Index.load(folder)


def rag_options(
    trained: RagOptions | None,
    index: Index | None,
    given: Mapping[str, Any],
    images: Sequence[Any],
    say: Callable[[str], None],
) -> RagOptions | None:
    """How the prompts tell of neighbours: as the model learned, but for what is ``given`` (None: as it learned); None
    without an index. Says where the model is asked otherwise than it learned. EcglmError for options without an index,
    and for ones that the index cannot serve.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if index is None:
        if chosen:
            raise EcglmError(
                f"--rag-{next(iter(chosen))} says how to tell of neighbours, but no index is given; add --rag"
            )
        if trained is not None:
            say(f"this model learned with retrieved ECGs ({trained.said()}) and is asked without; --rag gives them")
        return None
    if images:
        raise EcglmError("--rag searches by the signal, and --images shows picture files; leave one of them out")
    try:
        options = replace(trained or RagOptions(), **chosen)
    except ValueError as error:
        raise EcglmError(str(error).replace("rag.", "--rag-", 1)) from error
    options.check(index.feature_names, index.has_reports)
    if trained is None:
        say("this model learned without retrieved ECGs, and is asked with them")
    elif trained != options:
        say(f"this model learned with {trained.said()}, and is asked with {options.said()}")
    return options


def job_queries(job: Job, orders: RagOrders, partners: Mapping[str, str]) -> list[Query]:
    """What is searched for: the ECGs that the job shows. None for a blank ECG, or for none at all: neighbours of the
    patient's own would show the ECG that a control hides.
    """
    from ecglm.retrieval.neighbours import queries_of

    control, conversation = control_of(job.control), job.conversation
    if control is None or control.hides:
        return queries_of(conversation)
    if control.removes_ecg or job.control == "blank":
        return []
    if control.swaps:
        shown = {ecg: (partners[ecg], orders.patients[partners[ecg]]) for ecg in conversation.ecgs}
        return queries_of(conversation, shown=shown)
    return queries_of(conversation, change=lambda n: f"{job.control} {orders.seed} {conversation.id}/{n}")


def find_for_jobs(
    jobs: Sequence[Job],
    index: Index,
    orders: RagOrders,
    partners: Mapping[str, str],
    ecgs: EcgSource,
    split: str,
    say: Callable[[str], None],
) -> None:
    """Search for what all jobs show, into the folder that every process reads. EcglmError where the index holds anybody
    who is asked about, unless they are of the training split (who are excluded one by one).
    """
    from ecglm.retrieval.neighbours import check_index, find_neighbours

    if split != "train":
        check_index(index, (job.conversation for job in jobs), f"the questions (split '{split}')")
    index.check_stores(ecgs.stores)

    def segment_of(query: Query) -> tuple[np.ndarray, int]:
        segment, rate = ecgs.segment(query.ecg), ecgs.rate(query.ecg)
        if query.change:
            name, _, row_id = query.change.split(" ", 2)
            segment = apply_control(name, segment, rate, seed=orders.seed, row_id=row_id)
        return segment, rate

    find_neighbours(
        index,
        (query for job in jobs for query in job_queries(job, orders, partners)),
        segment_of,
        Path(orders.neighbours),
        k=orders.options.k,
        features=orders.options.chosen(index.feature_names),
        inputs=ecgs.fingerprints(),
        say=say,
    )


def row_of(options: RagOptions) -> dict[str, Any]:
    """The condition as rows tell it."""
    return {"k": options.k, "location": options.location, "content": options.content}


def settings_of(options: RagOptions) -> dict[str, Any]:
    """The condition as the manifest tells it."""
    plain: dict[str, Any] = strict.to_dict(options)
    return plain
