"""The scorer fixture that the definition of mode ``pulse`` gives, and what the original scorer makes of it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

PTB = ["NORM", "MI", "STTC", "CD", "HYP"]
CPSC = ["NORM", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE"]
CODE = ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]

#: Task → figures that the original scorer gives.
EXPECTED = {
    "mmmu-ecg": {"accuracy": 0.415},
    "ptb-test": {"f1": 0.7773108692244793, "auc": 0.8688819597321767, "hl": 0.118},
    "cpsc-test": {"f1": 0.7367690949338037, "auc": 0.8816929029599114, "hl": 0.08703703703703704},
    "csn-test-no-cot": {"accuracy": 0.3792675356921167},
    "g12-test-no-cot": {"accuracy": 0.3904244817374136},
    "ecgqa-test": {"accuracy": 0.435},
    "code15-test": {"f1": 0.7219573486410806, "auc": 0.8491234931223288, "hl": 0.089453125},
}


def make_fixture(out: Path) -> Path:
    """``out/gold/{task}.json`` and ``out/pred/{task}/step-final.jsonl``."""
    R = random.Random(20241019)
    os.makedirs(f"{out}/gold", exist_ok=True)

    def dump(task, rows):
        turns = [(i, [{"from": "human", "value": q}, {"from": "gpt", "value": a}]) for i, q, a, _ in rows]
        with open(f"{out}/gold/{task}.json", "w") as f:
            json.dump([{"id": i, "image": f"x/{i}.png", "conversations": c} for i, c in turns], f)
        os.makedirs(f"{out}/pred/{task}", exist_ok=True)
        with open(f"{out}/pred/{task}/step-final.jsonl", "w") as f:
            for i, q, _, p in rows:
                row = {"question_id": i, "prompt": q, "text": p, "answer_id": "a", "model_id": "m", "metadata": {}}
                f.write(json.dumps(row) + "\n")

    def multi(labels, n, task, extra=()):
        rows = []
        for k in range(n):
            g = R.sample(labels, R.choice([1, 1, 1, 2]))
            p = [label for label in g if R.random() < 0.8] + [label for label in labels if R.random() < 0.06]
            txt = "; ".join(p) + (R.choice(extra) if extra and R.random() < 0.2 else "")
            rows.append((f"{task}-{k}", "q", "; ".join(g), txt))
        return rows

    dump("ptb-test", multi(PTB, 300, "ptb", [" STEMI", " ABNORMAL ECG", " HYPERTROPHY"]))
    dump("cpsc-test", multi(CPSC, 300, "cpsc", [" ABNORMAL", " II-AVB", " AFL"]))
    rows = multi(CODE, 260, "code", [" LAST", " AFIB"])
    normal = ["NORM", "NORMAL", "ABNORMAL", "Answer: NORM", "RBBB Answer: ABNORMAL", "none"]
    rows += [(f"code-n{k}", "q", "NORM", R.choice(normal)) for k in range(30)]
    abnormal = ["NORM", "ABNORMAL", "ABNORMAL; AF", "Answer: ABNORMAL"]
    rows += [(f"code-a{k}", "q", "ABNORMAL", R.choice(abnormal)) for k in range(30)]
    dump("code15-test", rows)

    def mcq(n, letters, task, full):
        rows = []
        for k in range(n):
            g = R.choice(letters)
            w = g if R.random() < 0.7 else R.choice(letters)
            said = [w, f"{w}. something", f"The correct option is {w}", f"ECG shows aVF. Answer: {w}", f"Answer: {w}"]
            t = R.choice([*said, f"({w})", w.lower(), "no idea", f" {w}"])
            rows.append((f"{task}-{k}", "q", f"{g}. gold text" if full else g, t))
        return rows

    dump("csn-test-no-cot", mcq(1611, "ABCDEFGH", "csn", True))
    dump("g12-test-no-cot", mcq(2026, "ABCDEFGH", "g12", True))
    dump("mmmu-ecg", mcq(200, "ABCD", "mmmu", False))
    opts = ["yes", "no", "none", "not sure", "lead I", "lead II", "atrial fibrillation", "st elevation"]
    rows = []
    for k in range(400):
        o = R.sample(opts, 4)
        g = R.sample(o, R.choice([1, 1, 2]))
        p = g if R.random() < 0.75 else R.sample(o, 1)
        tail = R.choice(["", "\nOnly answer based on the given Options without any explanation."])
        q = "Question: x Options: " + ", ".join(o) + tail
        rows.append((f"qa-{k}", q, g, R.choice([", ", "/"]).join(p)))
    dump("ecgqa-test", rows)
    return out
