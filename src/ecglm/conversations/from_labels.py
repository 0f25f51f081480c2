"""Questions made from a store's own labels, measurements and reports: corpus ``labels``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecglm.conversations import label_questions as words
from ecglm.conversations.messages import check_turns, clean_text, show_ecgs
from ecglm.conversations.outcomes import NotAsked, Outcome, Reject, SetAside
from ecglm.conversations.resolve import record_rows
from ecglm.errors import ConfigError, EcglmError, RejectedRecord, nearest
from ecglm.registry import register
from ecglm.types import Conversation, Turn

#: Raised whenever a question, an answer or the rule behind one changes: old and new scores are then not one column.
VERSION = 2
CORPUS = "labels"
TASKS: tuple[str, ...] = tuple(words.PHRASINGS)
LANGUAGES = ("en", "original")


@dataclass(frozen=True)
class _Truth:
    answer: str
    question_type: str
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


class _NotAsked(Exception):
    """The task has no known truth on this record; the message is the reason it is counted under."""


class _NoReport(Exception):
    """There is no report in the language asked for; the message is the reason it is set aside under."""


@dataclass(frozen=True)
class _Group:
    """What the stores hold of one label group of one source: the names, and whether one record can have several."""

    names: tuple[str, ...]
    several: bool


_Groups = Mapping[tuple[str, str], _Group]


#: Columns of the index that the questions are made of.
_COLUMNS = ("record_id", "patient_id", "split", "report", "report_en", "report_origin", "labels", "metadata")


@register("conversations", "labels")
def map_labels(
    stores: Any,
    *,
    tasks: Sequence[str] | None = None,
    phrasings: str | Sequence[int] = "several",
    language: str = "en",
    seed: int = 0,
    splits: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Iterator[Outcome]:
    """One question and its answer for every record and task whose truth is known.

    stores: a SegmentStore, or several (a record in two of them is taken once). tasks: names of ``TASKS``, default all.
    phrasings: ``"several"`` chooses among all of a task's phrasings by a hash of seed, record and task, a list of
    indices among those only (so that wordings can be held out), ``"one"`` takes always the first. language: of
    reports, ``"en"`` or ``"original"`` (as the source has them). splits: patient id → split; default the split the
    store gives. limit: number of records.

    The truth, per task (whatever is not known is counted as ``<task>.<reason>`` and not asked):
    superclass, conduction, hypertrophy: where SCP-ECG statements are given (``scp:…``), a missing one is a known
    "none" (superclass: on synthetic ECGs as well), except the conduction of a paced ECG; elsewhere the labels of that
    group. PTB-XL's likelihoods are not read: a statement given is one that holds.
    normal: yes exactly if NORM is among the superclasses, also where another class stands beside it.
    rhythm, st, twave, qt: the labels of that group; none given means not known. axis: the label, or PTB-XL's
    ``heart_axis`` where it names a side. rate: ``measurements.heart_rate``, rounded. findings: the classes of CPSC2018
    and CODE-15% (there a missing one is known not to hold), else the AHA or SNOMED CT statements given. report: the
    text in English; a record without one is set aside as ``no_report``, an untranslated one as
    ``report_not_english``.

    Metadata of each: question_type (``yes-no``, ``choice``, ``multi-label``, ``number``, ``text``), choices (every
    possible answer of a closed task), labels (the names behind the answer), answers (of a multi-label task, its parts),
    report_origin (of a report), phrasing (index), version.
    Raises ConfigError for an unknown task, phrasing or language, EcglmError for a patient without split.
    """
    chosen_tasks = _known_tasks(tasks)
    allowed = _allowed_phrasings(phrasings, chosen_tasks)
    if language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        raise ConfigError(f"labels: no language '{language}'{nearest(language, LANGUAGES)}; known: {known}")
    groups = _label_groups(record_rows(stores, ("labels",), limit))
    truths = {**_TRUTHS, "report": _report(language)}
    for row in record_rows(stores, _COLUMNS, limit):
        record, split = str(row["record_id"]), _split(row, splits)
        for task in chosen_tasks:
            try:
                truth = truths[task](row, groups)
                index = _phrasing(allowed[task], seed, record, task)
                yield _conversation(row, task, split, truth, index)
            except _NotAsked as reason:
                yield NotAsked(f"{task}.{reason}")
            except _NoReport as reason:
                yield SetAside(f"{record}/{task}", str(reason))
            except RejectedRecord as error:
                yield Reject(f"{record}/{task}", error.reason, error.detail)


def _known_tasks(tasks: Sequence[str] | None) -> tuple[str, ...]:
    chosen = TASKS if tasks is None else tuple(dict.fromkeys([tasks] if isinstance(tasks, str) else tasks))
    for task in chosen:
        if task not in TASKS:
            raise ConfigError(f"labels: no task '{task}'{nearest(task, TASKS)}; known: {', '.join(TASKS)}")
    if not chosen:
        raise ConfigError(f"labels: tasks is empty; known: {', '.join(TASKS)}")
    return chosen


def _allowed_phrasings(phrasings: str | Sequence[int], tasks: Iterable[str]) -> dict[str, tuple[int, ...]]:
    if isinstance(phrasings, str):
        if phrasings not in ("several", "one"):
            raise ConfigError(f"labels: phrasings '{phrasings}' is neither 'several', 'one', nor a list of indices")
        return {task: tuple(range(len(words.PHRASINGS[task]))) if phrasings == "several" else (0,) for task in tasks}
    chosen = tuple(dict.fromkeys(phrasings))
    for task in tasks:
        for index in chosen or (-1,):
            if not 0 <= index < len(words.PHRASINGS[task]):
                raise ConfigError(
                    f"labels: phrasings {list(chosen)}: task '{task}' has 0 to {len(words.PHRASINGS[task]) - 1}"
                )
    return dict.fromkeys(tasks, chosen)


def _source(row: Mapping[str, Any]) -> str:
    return str(row["record_id"]).split("/", 1)[0]


def _names(row: Mapping[str, Any], group: str) -> list[str]:
    """The record's label names of a group, each once, in the order given."""
    prefix = f"{group}:"
    return list(dict.fromkeys(label[len(prefix) :] for label in row["labels"] if label.startswith(prefix)))


def _label_groups(rows: Iterable[Mapping[str, Any]]) -> _Groups:
    names: dict[tuple[str, str], set[str]] = {}
    several: set[tuple[str, str]] = set()
    for row in rows:
        for group in {label.split(":", 1)[0] for label in row["labels"]}:
            key, found = (_source(row), group), _names(row, group)
            names.setdefault(key, set()).update(found)
            if len(found) > 1:
                several.add(key)
    return {key: _Group(_in_order(key[1], found), key in several) for key, found in names.items()}


def _split(row: Mapping[str, Any], splits: Mapping[str, str] | None) -> str:
    if splits is None:
        return str(row["split"] or "")
    if row["patient_id"] not in splits:
        raise EcglmError(f"labels: patient {row['patient_id']} of {row['record_id']} has no split; make splits again")
    return splits[row["patient_id"]]


def _phrasing(allowed: Sequence[int], seed: int, record: str, task: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{record}\n{task}".encode()).digest()
    return allowed[int.from_bytes(digest[:8], "big") % len(allowed)]


def _conversation(row: Mapping[str, Any], task: str, split: str, truth: _Truth, index: int) -> Conversation:
    record = str(row["record_id"])
    turns = (Turn("user", show_ecgs(words.PHRASINGS[task][index], 1)), Turn("assistant", truth.answer))
    check_turns(turns, 1)
    return Conversation(
        id=f"{CORPUS}/{split or 'all'}/{record}/{task}",
        corpus=CORPUS,
        task=task,
        split=split,
        ecgs=(record,),
        patients=(str(row["patient_id"]),),
        turns=turns,
        source_id=f"{record}/{task}",
        metadata={
            "question_type": truth.question_type,
            "choices": list(truth.choices),
            "labels": list(truth.labels),
            **({"answers": list(truth.answers)} if truth.question_type == "multi-label" else {}),
            **({"report_origin": row.get("report_origin") or ""} if task == "report" else {}),
            "phrasing": index,
            "version": VERSION,
        },
    )


# What is true of a record, one function per kind of task.


def _in_order(group: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names in the canonical order of their group, unknown ones behind, by alphabet."""
    order = list(words.ANSWERS.get(group, {}))
    return tuple(sorted(set(names), key=lambda name: (order.index(name) if name in order else len(order), name)))


def _readable(group: str, name: str) -> str:
    return words.ANSWERS.get(group, {}).get(name, name.replace("_", " "))


def _closed(names: Sequence[str], group: str, vocabulary: Sequence[str], *, several: bool, none: str = "") -> _Truth:
    """The truth of a task with a fixed set of answers; ``none`` is what no name at all means, where that is known."""
    names = _in_order(group, names)
    choices = tuple(dict.fromkeys([_readable(group, name) for name in vocabulary] + ([none] if none else [])))
    # Two names may read the same (AFIB and atrial_fibrillation): they are one answer.
    answers = tuple(dict.fromkeys(_readable(group, name) for name in names)) or (none,)
    return _Truth(", ".join(answers), "multi-label" if several else "choice", choices, names, answers)


def _superclass(row: Mapping[str, Any], groups: _Groups) -> _Truth:
    names, complete = _names(row, "superclass"), _has_all_superclasses(row)
    if not names and not complete:
        raise _NotAsked("not_labelled")
    none = words.NO_SUPERCLASS if complete else ""
    return _closed(names, "superclass", tuple(words.SUPERCLASSES), several=True, none=none)


def _has_all_superclasses(row: Mapping[str, Any]) -> bool:
    """Whether a superclass that is not given is known not to hold."""
    return bool(_names(row, "scp")) or _source(row) == "synthetic"


def _normal(row: Mapping[str, Any], groups: _Groups) -> _Truth:
    labels = _in_order("superclass", _names(row, "superclass"))
    if not labels and not _has_all_superclasses(row):
        raise _NotAsked("not_labelled")
    return _Truth("yes" if "NORM" in labels else "no", "yes-no", ("yes", "no"), labels)


def _by_group(group: str) -> Callable[[Mapping[str, Any], _Groups], _Truth]:
    def truth(row: Mapping[str, Any], groups: _Groups) -> _Truth:
        names = _names(row, group)
        if not names:
            raise _NotAsked("not_labelled")
        found = groups[_source(row), group]
        several = found.several or bool(_names(row, "scp"))
        vocabulary = tuple(words.SCP_RHYTHMS) if group == "rhythm" and _names(row, "scp") else found.names
        return _closed(names, group, vocabulary, several=several)

    return truth


def _by_statements(group: str, table: Mapping[str, str], none: str) -> Callable[[Mapping[str, Any], _Groups], _Truth]:
    """SCP-ECG statements of ``table`` where they are given, else the labels of ``group``."""
    otherwise = _by_group(group)

    def truth(row: Mapping[str, Any], groups: _Groups) -> _Truth:
        statements = _names(row, "scp")
        if not statements:
            return otherwise(row, groups)
        names = [name for name in statements if name in table]
        if not names and group == "conduction" and "PACE" in {*statements, *_names(row, "rhythm")}:
            # A paced ventricle is not conducted normally, and no statement says how it is.
            raise _NotAsked("paced")
        return _closed(names, group, tuple(table), several=True, none=none)

    return truth


def _axis(row: Mapping[str, Any], groups: _Groups) -> _Truth:
    if _names(row, "axis"):
        return _by_group("axis")(row, groups)
    code = str(row["metadata"].get("heart_axis") or "")
    if not code:
        raise _NotAsked("not_labelled")
    if code not in words.PTB_XL_AXES:
        raise _NotAsked("no_side_named")
    return _closed([words.PTB_XL_AXES[code]], "axis", ("normal", "left", "right"), several=False)


def _rate(row: Mapping[str, Any], groups: _Groups) -> _Truth:
    rate = (row["metadata"].get("measurements") or {}).get("heart_rate")
    if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise _NotAsked("not_measured")
    return _Truth(f"{rate:.0f} bpm", "number")  # halves to the even number, as in the reports


def _report(language: str) -> Callable[[Mapping[str, Any], _Groups], _Truth]:
    def truth(row: Mapping[str, Any], groups: _Groups) -> _Truth:
        original = clean_text(row.get("report") or "")
        text = clean_text(row.get("report_en") or "") if language == "en" else original
        if not text:
            raise _NoReport("report_not_english" if original else "no_report")
        return _Truth(text, "text")

    return truth


def _findings(row: Mapping[str, Any], groups: _Groups) -> _Truth:
    source = _source(row)
    group = next((name for name in ("cpsc", "code15", "aha", "dx") if _names(row, name)), "")
    if not group and source != "code15":
        raise _NotAsked("not_labelled")
    if group in ("", "code15"):
        names, none = _names(row, "code15"), words.NO_CODE_15_CLASS
        return _closed(names, "code15", tuple(words.CODE_15_CLASSES), several=True, none=none)
    vocabulary = tuple(words.CPSC_CLASSES) if group == "cpsc" else groups[source, group].names
    return _closed(_names(row, group), group, vocabulary, several=True)


_TRUTHS: dict[str, Callable[[Mapping[str, Any], _Groups], _Truth]] = {
    "superclass": _superclass,
    "normal": _normal,
    "rhythm": _by_group("rhythm"),
    "conduction": _by_statements("conduction", words.SCP_CONDUCTION, words.NO_CONDUCTION),
    "axis": _axis,
    "rate": _rate,
    "st": _by_group("st"),
    "hypertrophy": _by_statements("hypertrophy", words.SCP_HYPERTROPHY, words.NO_HYPERTROPHY),
    "twave": _by_group("twave"),
    "qt": _by_group("qt"),
    "report": _report("en"),
    "findings": _findings,
}
