"""ECG-Reasoning-Benchmark, diagnoses reached step by step (arXiv 2603.14326): corpus ``ecg-reasoning``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecglm.conversations.instruction import (
    Item,
    Rules,
    map_items,
    numbered_record,
    ptb_xl_record,
    source_id_of,
    text_of,
    visible,
)
from ecglm.conversations.json_stream import iter_items
from ecglm.conversations.outcomes import Outcome
from ecglm.errors import EcglmError, RejectedRecord
from ecglm.files import read_json
from ecglm.registry import register

VERSION = 1
CORPUS = "ecg-reasoning"
TASK = "ecg-reasoning"
#: ``data_source`` → dataset.
DATASETS = {"ptbxl": "ptb-xl", "mimic_iv_ecg": "mimic-iv-ecg"}
#: Questions of one reasoning step, in the order they are asked; ``ecg_grounding`` is a list of them.
STEPS = ("criterion_selection", "finding_identification", "ecg_grounding", "diagnostic_decision")


@register("conversations", "ecg-reasoning")
def map_ecg_reasoning(
    stores: Any,
    *,
    root: str | Path,
    limit: int | None = None,
    duplicates: str = "error",
    say_signal: bool = False,
) -> Iterator[Outcome]:
    """One dialogue for every item, officially all ``test``: first diagnosis, then step by step; task ``ecg-reasoning``.

    root: a ``.jsonl`` file, a folder of them (or its ``data``), or the official tree ``<source>/<diagnosis>/<n>.json``.
    limit: number of items of each file (of the tree: of all). duplicates: what to do with a source id that stands
    twice: ``error``, ``reject`` or ``keep``. say_signal: the word ``image`` in user turns becomes ``signal``.

    A user turn is the question and its options, one to a line; the answer is the option's text (several: joined by
    ``, ``). Metadata: turns (per question: question_type, options, answer_idx), data_source, target_dx, dx_label,
    path_idx, question_type ``multi-turn-choice``, version.
    """
    rules = Rules(
        corpus=CORPUS, version=VERSION, split="test", limit=limit, duplicates=duplicates, say_signal=say_signal
    )
    rules.check()
    yield from map_items(stores, _sources(Path(root)), _read, rules)


def _sources(root: Path) -> list[tuple[str, Iterator[tuple[int, Any]]]]:
    if root.is_file():
        return [(root.name, iter_items(root))]
    if not root.is_dir():
        raise EcglmError(f"{root}: no such file or folder; say with --root where the files of {CORPUS} lie")
    for folder in (root, root / "data"):
        if lines := visible(folder, ".jsonl"):
            return [(path.name, iter_items(path)) for path in lines]
    tree = sorted(p for p in root.rglob("*.json") if p.stem.isdigit() and p.is_file())
    if not tree:
        raise EcglmError(f"{root}: no .jsonl file and no <diagnosis>/<number>.json here")
    return [(root.name, ((n, _numbered(path)) for n, path in enumerate(tree)))]


def _numbered(path: Path) -> Any:
    """The item of a file of its own, whose number is its id."""
    item = read_json(path)
    if isinstance(item, dict) and isinstance(item.get("metadata"), dict):
        item["metadata"].setdefault("id", path.stem)
    return item


def _read(item: Mapping[str, Any], position: int) -> Item:
    about, data = _object(item, "metadata"), _object(item, "data")
    source, ecg_id = text_of(about, "data_source"), text_of(about, "ecg_id")
    dataset = DATASETS.get(source.lower().replace("-", "_"))
    if dataset is None:
        raise RejectedRecord(
            "malformed_item", f"field data_source must be one of {', '.join(DATASETS)}: {source!r:.40}"
        )
    record = ptb_xl_record(ecg_id, ecg_id) if dataset == "ptb-xl" else numbered_record(dataset, ecg_id, ecg_id)
    pairs: list[tuple[str, object]] = []
    turns: list[dict[str, Any]] = []
    for leaf in _leaves(data):
        question, options = text_of(leaf, "question"), _texts(leaf, "options")
        answers, places = _answers(leaf, options)
        pairs += [
            ("user", "\n".join([question.strip(), "Options:", *(f"- {option}" for option in options)])),
            ("assistant", ", ".join(answers)),
        ]
        turns.append({"question_type": text_of(leaf, "question_type"), "options": options, "answer_idx": places})
    metadata = {name: about[name] for name in ("target_dx", "dx_label", "path_idx") if name in about}
    metadata |= {"data_source": source, "question_type": "multi-turn-choice", "turns": turns}
    own = source_id_of(about)
    return Item(pairs, (record,), TASK, f"{source}/{own or f'#{position}'}", metadata)


def _leaves(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every question of an item, in the order stored."""
    yield _object(data, "initial_diagnostic_question")
    steps = data.get("reasoning")
    if not isinstance(steps, list):
        raise RejectedRecord("malformed_item", f"field reasoning must be a list, found {steps!r:.80}")
    for step in steps:
        if not isinstance(step, dict):
            raise RejectedRecord("malformed_item", f"a step of reasoning must be an object, found {step!r:.80}")
        for name in STEPS:
            if name == "ecg_grounding":
                grounding = step.get(name)
                if not isinstance(grounding, list) or not all(isinstance(leaf, dict) for leaf in grounding):
                    raise RejectedRecord("malformed_item", f"field {name} must be a list of questions")
                yield from grounding
            else:
                yield _object(step, name)


def _answers(leaf: Mapping[str, Any], options: Sequence[str]) -> tuple[list[str], list[int]]:
    """The answers of a question and their places among the options; ``answer_idx`` must say the same where given."""
    answer = leaf.get("answer")
    answers = _texts({"answer": answer if isinstance(answer, list) else [answer]}, "answer")
    if any(text not in options for text in answers):
        raise RejectedRecord("malformed_item", f"field answer must be among the options, found {answers!r:.80}")
    places = [options.index(text) for text in answers]
    given = leaf.get("answer_idx", places)
    if (given if isinstance(given, list) else [given]) != places:
        raise RejectedRecord("malformed_item", f"field answer_idx is {given!r:.40}, the answer is option {places}")
    return answers, places


def _object(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = item.get(name)
    if not isinstance(value, dict):
        raise RejectedRecord("malformed_item", f"field {name} must be an object, found {value!r:.80}")
    return value


def _texts(item: Mapping[str, Any], name: str) -> list[str]:
    value = item.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(part, str) and part.strip() for part in value):
        raise RejectedRecord("malformed_item", f"field {name} must be a list of texts, found {value!r:.80}")
    return value
