"""The model card of a run: what it learned from, what it scores beside its controls, and what it is not for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ecglm.conversations.card import RECORDINGS
from ecglm.conversations.hub import FREE, NOT_FREE
from ecglm.conversations.table import read_conversations
from ecglm.errors import EcglmError
from ecglm.files import MANIFEST, read_json, read_manifest
from ecglm.types import SPLITS

_REAL = "real"
_OF_TINY = "made from scratch by ecglm"


def checkpoint_of(model: str | Path) -> Path:
    """The checkpoint folder of a run (its ``best``), or the folder itself."""
    folder = Path(model)
    return folder / "best" if (folder / "best" / MANIFEST).is_file() else folder


def model_card(
    model: str | Path, *, data: Mapping[tuple[str, str], int] | None = None, scores: Mapping[str, Any] | None = None
) -> str:
    """README.md of a run or checkpoint folder, with the front matter that the hub reads.

    data: (corpus, split) → questions (``count_questions``). scores: content of a ``scores.json``; one without controls
    is shown with a warning.
    """
    folder = checkpoint_of(model)
    manifest = read_manifest(folder, "checkpoint")
    settings = read_json(folder / "config.json")
    section = settings["model"]
    run = folder.parent / MANIFEST
    whole = read_json(run) if run.is_file() else {}
    llm, tiny = section["llm"], section["llm"] == "tiny"
    hub_id = not tiny and llm.count("/") == 1 and not llm.startswith((".", "/"))
    lines = ["---", "language:", "- en", "license: other", "license_name: see-base-model-and-data", "tags:", "- ecg"]
    lines += ["- medical", "- ecglm", "library_name: ecglm", *([f"base_model: {llm}"] if hub_id else []), "---", ""]
    lines += ["# An ECG-language model", ""]
    lines += [
        "It answers questions about a 12-lead ECG. **For research only**: not a medical device, and nothing it says "
        "may be used to diagnose or treat anybody.",
        "",
        "```sh",
        'ecglm ask --model OWNER/NAME --ecg RECORDING "What is the rhythm?"',
        "```",
        "",
        "## What it is",
        "",
        "| | |",
        "|---|---|",
    ]
    shown = settings["representation"]
    lora = section.get("lora")
    adapter = "DoRA" if (lora or {}).get("dora") else "LoRA"
    told = f"{manifest['val_loss']:.4f}, step {manifest['step']}" if "val_loss" in manifest else "not told"
    facts = {
        "language model": _OF_TINY if tiny else (llm if hub_id else Path(llm).name),
        "licence of the language model": _OF_TINY if tiny else "that of the base model; see its page",
        "ECG shown as": shown.get("name", shown.get("kind", "see config.json")),
        "encoder": section.get("encoder") or "none",
        "adapted by": "full weights" if lora is None else f"{adapter}, rank {lora['rank']}",
        "chat format": section["chat_format"],
        "sampling rate": f"{settings['pipeline'].get('rate', '?')} Hz",
        "parameters": f"{whole['num_parameters']:,}" if "num_parameters" in whole else "see config.json",
        "validation loss": told,
    }
    lines += [f"| {name} | {_cell(str(value))} |" for name, value in facts.items()]
    lines += ["", "## What it learned from", "", *_data(data, whole), "", "## Scores", "", *_scores(scores), ""]
    lines += [
        "## Limits",
        "",
        "- It was trained on the corpora above and knows nothing of other devices, populations or questions.",
        "- It can answer fluently and wrongly, also where the ECG shows nothing it could know.",
        "- A score says something about the ECG only by its distance from the controls, in which the ECG is blank, "
        "noise, another patient's, or absent.",
        "- The checkpoint knows (as hashes) which patients it learned from; `ecglm predict` refuses to test on them.",
        "",
    ]
    if whole:
        lines += ["## How it was made", "", "```json"]
        lines += [json.dumps({k: whole[k] for k in ("settings", "inputs") if k in whole}, indent=1, sort_keys=True)]
        lines += ["```", ""]
    return "\n".join(lines)


def _data(data: Mapping[tuple[str, str], int] | None, run: Mapping[str, Any]) -> list[str]:
    used = []
    for split, counts in run.get("counts", {}).items():
        if isinstance(counts, Mapping) and "used" in counts:
            rejected = sum(n for name, n in counts.items() if name.startswith("rejected:"))
            used.append(f"{split}: {counts['used']} questions used, {rejected} rejected")
    if not data:
        return [*(f"- {line}" for line in used), "- The data files were not at hand when this card was written."]
    lines = [f"| corpus | {' | '.join(SPLITS)} | licence |", f"|---|{'---|' * len(SPLITS)}---|"]
    for corpus in sorted({corpus for corpus, _ in data}):
        cells = " | ".join(str(data.get((corpus, split), 0)) for split in SPLITS)
        lines.append(f"| {_cell(corpus)} | {cells} | {_licence(corpus)} |")
    return [*lines, "", "Splits are by patient.", *(f"- {line}" for line in used)]


def _licence(name: str) -> str:
    return FREE.get(name) or NOT_FREE.get(name) or RECORDINGS.get(name, "not known here")


def _scores(scores: Mapping[str, Any] | None) -> list[str]:
    if scores is None:
        return ["None were given."]
    controls = scores.get("controls", {})
    if _REAL not in controls:
        raise EcglmError("these scores hold no answers on real ECGs; make them with ecglm score")
    others = [c for c in controls if c != _REAL]
    names = [_REAL, *others, "majority"]
    baseline = scores.get("baselines", {}).get("majority", {})
    lines = [f"| task | metric | {' | '.join(names)} | n |", f"|---|---|{'---|' * len(names)}---|"]
    for task, metric in sorted(scores.get("main", {}).items()):
        tables = [t.get(task, {}).get(metric) for t in (*(controls[c] for c in (_REAL, *others)), baseline)]
        count = (tables[0] or {}).get("n", 0)
        lines.append(f"| {_cell(task)} | {metric} | {' | '.join(map(_estimate, tables))} | {count} |")
    lines += ["", "In brackets: 95 % interval of a bootstrap over patients. On the test split unless told otherwise."]
    if not others:
        lines += ["", "**No controls**: these scores do not show that the ECG was read."]
    return lines


def _estimate(found: Mapping[str, Any] | None) -> str:
    if not found or found.get("value") is None:
        return "–"
    low, high = found.get("low"), found.get("high")
    return f"{found['value']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def count_questions(files: Iterable[str | Path]) -> dict[tuple[str, str], int]:
    """(corpus, split) → questions of conversations files; empty where one of them is not there."""
    paths = [Path(f) for f in files]
    if not all(p.is_file() for p in paths):
        return {}
    return dict(Counter((c.corpus, c.split) for p in paths for c in read_conversations(p)))


def _cell(text: str) -> str:
    """A name in a table of Markdown: nothing in it can end the cell or begin markup."""
    return "".join(c if c.isalnum() or c in " -_.;:()%'/,→" else "?" for c in text)
