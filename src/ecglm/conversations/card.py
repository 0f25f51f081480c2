"""The dataset card of conversations: what they are, where they come from, and what they must not be taken for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecglm.types import ECG_MARK, SPLITS

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
#: Dataset of the recordings (the part of a record id before the slash) → licence.
RECORDINGS = {
    "ptb-xl": "PTB-XL, CC BY 4.0",
    "mimic-iv-ecg": "MIMIC-IV-ECG, ODbL 1.0",
    "code15": "CODE-15%, CC BY 4.0",
    "cpsc2018": "CPSC2018, CC BY 4.0",
    "cpsc2018-extra": "CPSC2018-extra, CC BY 4.0",
    "csn": "Chapman-Shaoxing-Ningbo, CC BY 4.0",
    "georgia": "Georgia 12-lead ECG Challenge, CC BY 4.0",
    "ptb": "PTB, CC BY 4.0",
    "sph": "Shandong Provincial Hospital, CC BY 4.0",
    "synthetic": "made by ecglm's generator, of no patient",
}
_COLUMNS = (
    ("id", "unique"),
    ("corpus", "the instruction corpus the row comes from"),
    ("task", "what is asked"),
    ("split", "train, val or test; by patient"),
    ("ecgs", "record ids, in the order of their marks; the recordings themselves are not part of this dataset"),
    ("patients", "patient id of each record; a record id where the source names no patient"),
    ("turns", f"role (system, user, assistant) and text; {ECG_MARK} stands where an ECG is shown"),
    ("source_id", "the item's id in its corpus"),
    ("metadata", "JSON: question type, possible answers and the like"),
)


def dataset_card(
    manifest: Mapping[str, Any],
    sha: str,
    counts: Mapping[tuple[str, str], int],
    origins: Mapping[str, int],
    licences: Mapping[str, str],
) -> str:
    """README.md with the front matter that ``datasets`` reads.

    manifest, sha: of the conversations file. counts: (corpus, split) → rows. origins: dataset of the recordings → rows
    that show one. licences: corpus → licence in words.
    """
    hub = {"train": "train", "val": "validation", "test": "test", "": "unassigned"}
    splits = [split for split in (*SPLITS, "") if any(s == split for _, s in counts)]
    total = sum(counts.values())
    size = next((name for limit, name in _SIZES if total < limit), "10M<n<100M")
    corpora = sorted({corpus for corpus, _ in counts})
    lines = ["---", "pretty_name: ECG conversations", "language:", "- en", "license: other"]
    lines += ["license_name: see-corpora", "task_categories:", "- question-answering", "tags:", "- ecg", "- medical"]
    lines += ["size_categories:", f"- {size}", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {hub[split]}", f"    path: data/{hub[split]}-*.parquet"]
    lines += ["---", "", "# ECG conversations", ""]
    lines += [
        "Questions and answers about 12-lead ECGs, one conversation per row, made by `ecglm`. For research only: not a "
        "medical device, and nothing here may be used to diagnose or treat anybody.",
        "",
        "## Rows",
        "",
        f"| corpus | {' | '.join(hub[split] for split in splits)} | licence |",
        f"|---|{'---|' * len(splits)}---|",
    ]
    for corpus in corpora:
        cells = " | ".join(str(counts.get((corpus, split), 0)) for split in splits)
        lines.append(f"| {_cell(corpus)} | {cells} | {_cell(licences.get(corpus, 'not known here'))} |")
    lines += ["", "Each row is under the licence of its corpus. The recordings they speak of:", ""]
    lines += [f"- {RECORDINGS.get(name, _cell(name))}: {number} rows" for name, number in sorted(origins.items())]
    lines += [] if origins else ["- none: text only"]
    lines += ["", "## Columns", "", "| column | what |", "|---|---|"]
    lines += [f"| `{name}` | {what} |" for name, what in _COLUMNS]
    lines += [
        "",
        "## How it was made",
        "",
        "Settings and inputs (name: sha256) of the conversations file:",
        "",
        "```json",
    ]
    lines += [json.dumps({"settings": manifest["settings"], "inputs": manifest["inputs"]}, indent=1, sort_keys=True)]
    lines += ["```", "", f"The file itself: sha256 `{sha}`.", ""]
    if "mixed" in manifest:
        lines += ["What became of each file of the mix:", "", "```json"]
        lines += [json.dumps(manifest["mixed"], indent=1, sort_keys=True), "```", ""]
    lines += [
        "## Limits",
        "",
        "- The ECGs are named, not contained: prepare them from their official homes with `ecglm prepare`.",
        "- Answers come from labels, machine statements or language models, as their corpus made them; they contain "
        "errors, and no reader of this dataset has checked them.",
        "- Splits are by patient where the source names patients. Trying to identify a patient is forbidden.",
        "",
        "Read it with `datasets.load_dataset`, or make a conversations file of it with `ecglm`.",
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A name in a table of Markdown: nothing in it can end the cell or begin markup."""
    return "".join(c if c.isalnum() or c in " -_.;:()%'/," else "?" for c in text)
