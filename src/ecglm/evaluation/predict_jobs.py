"""What is to be answered, in which batches, and the file that keeps the answers until all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecglm import registry
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.controls import REAL, Control
from ecglm.files import append_jsonl, read_jsonl, write_bytes
from ecglm.prompts.data import EcgSource
from ecglm.types import Conversation

#: The answers so far: one line per batch. It goes once ``predictions.jsonl`` is whole.
WORK_FILE = "answers.jsonl"
#: Characters of a token, about: batches need lengths that are alike, not exact.
_CHARACTERS = 4
#: Tokens of a batch at most, the answers' included, whatever its size: what a model keeps of them fills the memory.
BATCH_TOKENS = 32_768

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """A conversation to answer under a control. seed: of the decoding, where answers are drawn."""

    control: str
    conversation: Conversation
    seed: int

    @property
    def num_answers(self) -> int:
        return len(answers_of(self.conversation))


def answers_of(conversation: Conversation) -> list[str]:
    """The reference answers, in order."""
    return [t.text for t in conversation.turns if t.role == "assistant"]


def control_of(name: str) -> Control | None:
    """The control of this name; None for the true ECG."""
    return None if name == REAL else registry.get("controls", name)


def make_jobs(conversations: Sequence[Conversation], controls: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """All jobs in the order of ``predictions.jsonl``: by seed, by control, by task, by id."""
    ordered = sorted(conversations, key=lambda c: (c.task, c.id))
    return [Job(control, c, seed) for seed in seeds for control in controls for c in ordered]


def lengths(conversations: Sequence[Conversation], ecgs: EcgSource, told: int = 0) -> dict[str, tuple[int, int]]:
    """Conversation id → about how many tokens its ECGs and its texts have. told: tokens of retrieved text, at most;
    they come and go with the ECG.
    """
    tokens: dict[str, int] = {}
    found = {}
    for c in conversations:
        shown = ecgs.shown(c)
        for ecg in shown:
            if ecg not in tokens:
                try:
                    tokens[ecg] = len(ecgs.outline(ecg).token_ids)
                except RejectedRecord:  # told in its rows
                    tokens[ecg] = 0
        found[c.id] = (
            sum(tokens[e] for e in shown) + (told if shown else 0),
            sum(len(t.text) for t in c.turns[:-1]) // _CHARACTERS,
        )
    return found


def make_batches(
    jobs: Sequence[Job], size: Mapping[str, tuple[int, int]], batch_size: int, max_new_tokens: int
) -> list[list[int]]:
    """Numbers of the jobs of each batch: a function of the jobs alone, so that neither the devices nor a resume show.

    size: ``lengths``. A batch has ``batch_size`` jobs, or fewer where they are long. Jobs that show the same stand side
    by side, since they are read together; of these groups the longest come first, and talks of many turns before those
    of few.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, job in enumerate(jobs):
        talk, control = job.conversation, control_of(job.control)
        bare = control is not None and control.removes_ecg
        same_for_all = bare or job.control == "blank"  # then equal questions are equal prompts
        about = tuple(t.text for t in talk.turns[:-1]) if same_for_all else talk.ecgs
        groups.setdefault((-job.num_answers, bare or not talk.ecgs, job.control, about), []).append(number)

    def length(number: int) -> int:
        ecg, text = size[jobs[number].conversation.id]
        control = control_of(jobs[number].control)
        return text if control is not None and control.removes_ecg else ecg + text

    def alike(number: int) -> tuple[Any, ...]:
        return -length(number), jobs[number].conversation.id, number  # one question under all seeds, side by side

    ranked = sorted(groups.items(), key=lambda g: (g[0][:2], -max(map(length, g[1])), g[0][2:], g[1]))
    batches: list[list[int]] = []
    kind, longest = None, 0
    for key, numbers in ranked:
        for number in sorted(numbers, key=alike):
            needed = length(number) + jobs[number].num_answers * max_new_tokens
            fits = kind == key[:2] and len(batches[-1]) < batch_size
            if not fits or (len(batches[-1]) + 1) * max(longest, needed) > BATCH_TOKENS:
                batches.append([])
                kind, longest = key[:2], 0
            batches[-1].append(number)
            longest = max(longest, needed)
    return batches


class Work:
    """The batches that are answered, on disk: appended and synced one by one.

    What a killed run left is read again: a torn last line is cut off, a batch that stands twice counts once. EcglmError
    for answers to other questions.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], batches: Sequence[Sequence[int]]) -> None:
        self.file, self.jobs, self.batches = folder / WORK_FILE, jobs, batches
        self.done: dict[int, list[Rows]] = {}
        if self.file.exists():
            for line in read_jsonl(self.file, allow_torn=True):
                self._take(line)
            whole = self.file.read_bytes()
            if not whole.endswith(b"\n"):
                write_bytes(self.file, whole[: whole.rfind(b"\n") + 1])

    @property
    def left(self) -> list[int]:
        """Numbers of the batches that are still to be answered."""
        return [b for b in range(len(self.batches)) if b not in self.done]

    def add(self, batch: int, rows: list[Rows]) -> None:
        """Keep the answers of a batch: rows per job."""
        append_jsonl(self.file, [{"batch": batch, "rows": rows}])
        self.done[batch] = rows

    def _take(self, line: Mapping[str, Any]) -> None:
        batch, rows = line.get("batch"), line.get("rows")
        if not isinstance(batch, int) or not 0 <= batch < len(self.batches) or not isinstance(rows, list):
            raise self._foreign(batch)
        wanted = [self._asked(self.jobs[number]) for number in self.batches[batch]]
        try:
            found = [[(r["id"], r["control"], r["seed"], r["turn"]) for r in of_job] for of_job in rows]
        except (KeyError, TypeError) as error:
            raise self._foreign(batch) from error
        if found != wanted:
            raise self._foreign(batch)
        self.done.setdefault(batch, rows)

    def _asked(self, job: Job) -> list[tuple[Any, ...]]:
        return [(job.conversation.id, job.control, job.seed, turn) for turn in range(job.num_answers)]

    def _foreign(self, batch: Any) -> EcglmError:
        return EcglmError(f"{self.file}: batch {batch} is not of these questions; use --overwrite, or another --out")

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, in the order of the jobs, each with its turns in order."""
        where = {number: (b, at) for b, batch in enumerate(self.batches) for at, number in enumerate(batch)}
        for number in range(len(self.jobs)):
            batch, at = where[number]
            yield from self.done[batch][at]


def progress(total: int, before: int, say: Callable[[str], None], clock: Callable[[], float]) -> Callable[[int], None]:
    """Tells every few seconds how many answers are there and how long the rest may take."""
    started = said = clock()

    def tell(ready: int) -> None:
        nonlocal said
        now = clock()
        if now - said > 3 or ready == total:
            said = now
            left = (now - started) / max(ready - before, 1) * (total - ready)
            say(f"answers {ready}/{total}  {now - started:.0f} s, {left:.0f} s left")

    return tell
