"""What a model gains that is told of retrieved ECGs: the quickstart's signal model, trained with and without.

``plain`` is the quickstart's own model. ``rag`` is the same recipe with a section ``rag``: a prompt tells the report of
the nearest training ECG of another patient, by ECG-Bench's 288 features. Both answer the questions about the
quickstart's test patients, with the controls, and each is asked the other's way too: ``rag`` without neighbours,
``plain`` with them.

Needs a finished ``ecglm quickstart``. Every step is a verb of the command line.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import yaml

from ecglm.cli import main as ecglm

CONTROLS = ("blank", "noise", "swap", "no-ecg")


def run(*words: object) -> None:
    if ecglm([str(word) for word in words]):
        raise SystemExit(f"ecglm {words[0]} failed")


def recipe_with(index: Path, plain: Path, out: Path) -> None:
    """The quickstart's recipe, and what it tells of the nearest training ECG."""
    recipe = yaml.safe_load(plain.read_text()) | {"name": "rag"}
    recipe["rag"] = {"index": str(index), "k": 1, "location": "user", "max_tokens": 160}
    out.write_text(yaml.safe_dump(recipe, sort_keys=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, default=Path("runs/rag-answers"))
    given = parser.parse_args()
    source, out = given.quickstart, given.out
    questions, model = source / "questions.parquet", source / "signal"
    if not (model / "best").is_dir():
        raise SystemExit(f"{model}: no model there; run ecglm quickstart first")
    out.mkdir(parents=True, exist_ok=True)

    index = out / "index"
    run("index", "build", source / "store", "--data", questions, "--out", index)
    recipe_with(index, model / "recipe.yaml", out / "rag.yaml")
    run("train", out / "rag.yaml", "--out", out / "model")
    ways = {
        "plain": (model / "best", False),
        "rag": (out / "model" / "best", True),
        "rag-asked-without": (out / "model" / "best", False),
        "plain-asked-with": (model / "best", True),
    }
    for name, (best, with_rag) in ways.items():
        asked = ("--model", best, "--data", questions, "--store", source / "store-test", "--out", out / name)
        run("predict", *asked, *(("--rag", index) if with_rag else ()), "--controls", *CONTROLS)
        run("score", out / name)
    table = out / "compare.csv"
    run("compare", *[f"{name}={out / name}" for name in ways], "--out", table)
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    print(
        "| task | model | score [95 %] | difference to plain [95 %] | gap to its best control |\n|---|---|---|---|---|"
    )
    for row in rows:
        score, gap = (told(row, "value", "low", "high"), f"{float(row['gap']):+.2f} ({row['gap_control']})")
        difference = told(row, "difference", "difference_low", "difference_high", "+") if row["difference"] else ""
        print(f"| {row['task']} | {row['model']} | {score} | {difference} | {gap} |")


def told(row: dict[str, str], value: str, low: str, high: str, sign: str = "") -> str:
    return f"{float(row[value]):{sign}.2f} [{float(row[low]):{sign}.2f}, {float(row[high]):{sign}.2f}]"


if __name__ == "__main__":
    main()
