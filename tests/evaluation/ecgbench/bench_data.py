"""ECGBench as its publisher lays it out, made up and small: Parquet with pictures inside, quirks of the turns kept."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = ["one", "two", "three", "four", "five", "six"]
OPTIONS = "\nOptions:\nA. one\nB. two\nC. three\nD. four\nE. five\nF. six\nG. seven\nH. eight"


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    """The bytes of a small picture, another for every number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=kind)
    return out.getvalue()


def talk(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def rows(num: int = 3) -> dict[str, list[dict[str, Any]]]:
    """Subset → items as the dataset has them, without the picture."""
    labels = ["NORM", "MI", "STTC"]

    def row(subset: str, n: int, image: str, turns: Any) -> dict[str, Any]:
        return {"id": f"{subset}-{n}", "image_path": image, "conversations": turns}

    made: dict[str, list[dict[str, Any]]] = {}
    for n in range(num):
        ptb, letter = f"ptb-xl/{n + 1:05d}_hr-0.png", "ABCDEFGH"[n % 8]
        choice = talk(f"<image>\nWhich is it?{OPTIONS}", f"{letter}. {WORDS[n % 6]}")
        items = {
            "ptb-test": row("ptb", n, ptb, talk("<image>\nWhich of NORM, MI, STTC?", labels[n % 3])),
            "ptb-test-report": row("ptb-report", n, f"rep/{n + 1:05d}_hr-0.png", talk("Write a report.", "Sinus.")),
            "code15-test": row("code", n, f"code15/{1000 + n}-0.png", talk("Which?", ["ST", "AF", "NORM"][n % 3])),
            "ecgqa-test": row("qa", n, ptb, talk(list("Is it? Options: yes, no, lead V1"), [["yes"], ["no"]][n % 2])),
            "cpsc-test": row("cpsc", n, f"cpsc/A{n + 1:04d}-0.jpg", talk("Which?", ["AF", "I-AVB", "STE"][n % 3])),
            "csn-test-no-cot": row("csn", n, f"csn/JS{n + 1:05d}-0.png", choice),
            "g12-test-no-cot": row("g12", n, f"g12/E{n + 1:05d}-0.png", choice),
            "mmmu-ecg": row("mmmu", n, f"mmmu/{n}.jpg", talk(f"What?{OPTIONS[:39]}", "ABCD"[n % 4])),
            "arena": row(
                "arena",
                n,
                f"arena/{n}.jpg",
                [{"question": f"<image>\nQ{k}?", "answer": f"A{k}."} for k in (1, 2)],
            ),
        }
        for subset, item in items.items():
            made.setdefault(subset, []).append(item)
    return made


def write_parquet(folder: Path, subset: str, items: list[dict[str, Any]], cells: list[Any] | None = None) -> Path:
    """``<folder>/<subset>/test-00000-of-00001.parquet``; cells: the pictures, made up where not given."""
    if cells is None:
        kinds = ["JPEG" if item["image_path"].endswith(".jpg") else "PNG" for item in items]
        cells = [
            {"bytes": picture(hash_of(i["image_path"]), k), "path": None} for i, k in zip(items, kinds, strict=True)
        ]
    (folder / subset).mkdir(parents=True, exist_ok=True)
    path = folder / subset / "test-00000-of-00001.parquet"
    column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.Table.from_pylist(items).append_column("image", column)
    pq.write_table(table, path, row_group_size=2)
    return path


def hash_of(name: str) -> int:
    """The same number for the same name, in every process."""
    return sum(ord(c) * 31**i for i, c in enumerate(name)) % (1 << 31)


def write_source(folder: Path, num: int = 3) -> Path:
    """All nine subsets as Parquet."""
    for subset, items in rows(num).items():
        write_parquet(folder, subset, items)
    return folder


def write_gold(folder: Path, subset: str, items: list[dict[str, Any]]) -> Path:
    """A prepared ``{subset}.json``, without pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{subset}.json"
    path.write_text(json.dumps(items))
    return folder


def gold_rows(subset: str, pairs: list[tuple[Any, Any]], image: str = "x/{}.png") -> list[dict[str, Any]]:
    """(question, answer) pairs as items ``<subset>-0``, …"""
    return [
        {"id": f"{subset}-{n}", "image": image.format(n), "conversations": talk(q, a)} for n, (q, a) in enumerate(pairs)
    ]


def write_answers(path: Path, texts: dict[str, str | None], **more: Any) -> Path:
    """Predictions in the published fields; None: a row without text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for item_id, text in texts.items():
        row = {"question_id": item_id, "prompt": "q", "answer_id": "a", "model_id": "m", "metadata": {}, **more}
        lines.append(json.dumps(row if text is None else {**row, "text": text}) + "\n")
    path.write_text("".join(lines))
    return path
