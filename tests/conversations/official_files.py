"""Small files of every corpus in its official schema and layout, and stores that hold their ECGs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecglm.types import LEADS, Record

STUDIES = tuple(range(40_000_001, 40_000_013))
PTB_XL = tuple(range(1, 13))
EXAMS = tuple(range(101, 113))
RECORDS = (
    *(f"mimic-iv-ecg/{n}" for n in STUDIES),
    *(f"ptb-xl/{n:05d}" for n in PTB_XL),
    *(f"code15/{n}" for n in EXAMS),
    *("cpsc2018/A0001", "cpsc2018-extra/Q0001", "csn/JS00001", "georgia/E00001"),
)


def patient_of(record: str) -> str:
    """Two records of the same patient stand together, except where the dataset names no patients."""
    dataset, name = record.split("/")
    return f"{dataset}/p{int(name) // 2}" if name.isdigit() else record


@dataclass(frozen=True, kw_only=True)
class ManyDatasets:
    """A source with a few records of every dataset that the corpora point into: noise, 4 s at 100 Hz."""

    name: ClassVar[str] = "many-datasets"

    def version(self) -> str:
        return "1"

    def fingerprint(self) -> dict[str, Any]:
        return {"records": len(RECORDS)}

    def keys(self) -> list[str]:
        return list(RECORDS)

    def read(self, key: str) -> Record:
        signal = np.random.default_rng(RECORDS.index(key)).normal(0, 0.3, (12, 400)).astype(np.float32)
        return Record(key, signal, 100, LEADS, patient_of(key), report="Sinus rhythm.", labels=("rhythm:SR",))

    def accounting(self) -> dict[str, list[str]]:
        return {}


class IndexOnly:
    """What a store of these records says of them."""

    def __init__(self, records: tuple[str, ...] = RECORDS) -> None:
        self.index = pa.table({"record_id": list(records), "patient_id": [patient_of(r) for r in records]})


def splits(records: tuple[str, ...] = RECORDS) -> dict[str, str]:
    """Patient id → split: of three patients one each."""
    patients = list(dict.fromkeys(patient_of(record) for record in records))
    return {patient: ("train", "val", "test")[n % 3] for n, patient in enumerate(patients)}


def write_json(path: Path, items: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(items, **options), encoding="utf-8")
    return path


def write_jsonl(path: Path, items: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def turns(*texts: str, mark: str = "<ecg>\n") -> list[dict[str, str]]:
    """human and gpt by turns, the mark before the first."""
    written = [mark + texts[0], *texts[1:]]
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(written)]


def study_item(study: int = STUDIES[0], **changes: Any) -> dict[str, Any]:
    """An item of pretrain_mimic.json or ecg_instruct_45k.json."""
    key = f"files/p1000/p10000032/s{study}/{study}"
    said = turns("Write the report.", f"Sinus rhythm, number {study}.")
    return {"id": f"item-{study}", "ecg": key, "conversations": said, **changes}


def instruct_item(number: int, image: str, **changes: Any) -> dict[str, Any]:
    """An item of ECGInstruct."""
    said = turns("What does this image show?", f"Finding {number}.", mark="<image>\n")
    about = {"subtask": "rhythm", "type": "open-ended", "source": image.split("/")[0]}
    return {"id": f"i{number}", "image": image, "conversations": said, "metadata": about, **changes}


def mimic_image(study: int) -> str:
    return f"mimic/p1127/p11273115/s{study}/{study}-0.png"


def grounding_item(number: int, ecg: str, **changes: Any) -> dict[str, Any]:
    """An item of GEM's files, all six fields."""
    said = turns("Interpret the ECG.", f"Grounded answer {number}.", mark="<image>\n")
    rest = {"machine_measurements": {"rr_interval": 800}, "report": "Sinus rhythm"}
    return {"id": f"g{number}", "image": f"img/{number}.png", "ecg": ecg, "conversations": said, **rest, **changes}


def bench_item(number: int, image: str, question: Any, answer: Any, **changes: Any) -> dict[str, Any]:
    """A row of ECGBench as ``{subset}.json`` has it."""
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"b{number}", "image_path": image, "conversations": said, **changes}


def reasoning_item(number: int = 0, ecg_id: str = "00001", source: str = "ptbxl", **changes: Any) -> dict[str, Any]:
    """An item of ECG-Reasoning-Benchmark with one step and one grounding question."""

    def leaf(kind: str, question: str, options: list[str], place: int) -> dict[str, Any]:
        return {
            "question": question,
            "options": options,
            "answer": options[place],
            "answer_idx": place,
            "question_type": kind,
        }

    first = leaf("initial_diagnostic_question", "Does this ECG suggest LVH?", ["Yes", "No"], 0)
    del first["answer_idx"]
    step = {
        "criterion_selection": leaf("criterion_selection", "Which criterion?", ["Sokolow", "Delta wave"], 0),
        "finding_identification": leaf("finding_identification", "Is it met?", ["Yes", "No"], 0),
        "ecg_grounding": [leaf("wave_grounding", "Where?", ["[1.00s - 1.20s]", "[2.00s - 2.20s]"], 1)],
        "diagnostic_decision": leaf("diagnostic_decision", "So, LVH?", ["Yes", "No", "Further findings"], 0),
    }
    about = {"id": number, "data_source": source, "ecg_id": ecg_id, "target_dx": "lvh", "dx_label": True, "path_idx": 0}
    return {"metadata": about, "data": {"initial_diagnostic_question": first, "reasoning": [step]}, **changes}


def qa_item(sample: int, ecgs: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """An item of ECG-QA."""
    return {
        "template_id": 1,
        "question_id": 10,
        "sample_id": sample,
        "question_type": "single-verify" if len(ecgs) == 1 else "comparison_consecutive-verify",
        "attribute_type": "scp_code",
        "question": f"Does this ECG show atrial fibrillation, sample {sample}?",
        "answer": ["yes"],
        "ecg_id": list(ecgs),
        "attribute": ["atrial fibrillation"],
        **changes,
    }


def write_bench_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A configuration of the ECGBench dataset: the image's bytes in a structure beside its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "image": {"bytes": b"\x89PNG" + bytes(50), "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_corpora(root: Path) -> dict[str, Path]:
    """Every corpus with files of its own, in its official layout, all items usable; corpus → what ``root`` is."""
    ptb_keys = [f"ecg_ptbxl_benchmarking/data/ptbxl/records500/00000/{n:05d}_hr" for n in PTB_XL]
    mimic_keys = [f"mimic-iv/files/p1000/p10000032/s{s}/{s}" for s in STUDIES]
    code_keys = [f"code15/records/exams_part0/{e}" for e in EXAMS]
    grounding = [grounding_item(n, key) for n, key in enumerate([*ptb_keys, *mimic_keys, *code_keys])]
    for name in ("grounding_train_30k.json", "ECG_Grounding_30k.json", "ecg-grounding-test.json"):
        write_json(root / "ECG-Grounding" / "ecg_jsons" / name, grounding)
    images = [*(mimic_image(s) for s in STUDIES), *(f"ptb-xl/records500/{n:05d}_hr-0.png" for n in PTB_XL)]
    images += [f"cod15_v4/exams_part1/{e}-0.png" for e in EXAMS]
    write_json(root / "ECGInstruct" / "ECGInstruct.json", [instruct_item(n, i) for n, i in enumerate(images)])
    said = turns("What is the rate?", "60 bpm.", "And the rhythm?", "Sinus rhythm.")
    chat = root / "ECG-Chat" / "llava" / "playground" / "data"
    write_json(chat / "ecg_instruct_45k.json", [study_item(s, conversations=said) for s in STUDIES])
    write_json(chat / "pretrain_mimic.json", [study_item(s) for s in STUDIES])
    for part, ids in (("ptbxl", PTB_XL), ("mimic-iv-ecg", STUDIES)):
        for split, some in (("train", ids[:6]), ("valid", ids[6:9]), ("test", ids[9:])):
            items = [qa_item(n, (e,)) for n, e in enumerate(some)] + [qa_item(90, (some[0], some[1]))]
            write_json(root / "ecg-qa" / "ecgqa" / part / "template" / split / "0.json", items, indent=4)
    write_jsonl(root / "reasoning" / "ptbxl.jsonl", [reasoning_item(n, f"{n:05d}") for n in PTB_XL])
    expert = [{"Q": f"What is lead number {n}?", "A": f"An answer, {n}."} for n in range(30)]
    write_json(root / "expert" / "ECG Knowledge (Basic Q&A).json", expert)
    bench = {
        "ptb-test": [bench_item(n, f"ptb/{n:05d}_hr-0.png", "<image>\nWhich classes?", "NORM, CD") for n in PTB_XL],
        "cpsc-test": [bench_item(0, "cpsc/A0001-0.png", "<image>\nWhich?", "AF")],
    }
    for name, rows in bench.items():
        write_bench_parquet(root / "ECGBench" / name / "test-00000-of-00001.parquet", rows)
    return {
        "pretrain-mimic": root / "ECG-Chat",
        "ecg-instruct-45k": root / "ECG-Chat",
        "ecg-instruct-pulse": root / "ECGInstruct",
        "ecg-grounding": root / "ECG-Grounding",
        "ecg-grounding-pulse": root / "ECG-Grounding",
        "ecg-grounding-test": root / "ECG-Grounding",
        "ecg-qa-ptbxl": root / "ecg-qa",
        "ecg-qa-mimic": root / "ecg-qa",
        "ecg-reasoning": root / "reasoning",
        "ecg-expert-qa": root / "expert",
        "ecgbench": root / "ECGBench",
    }
