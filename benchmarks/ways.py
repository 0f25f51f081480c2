"""Does every training way read the ECG? Runs the commands at the head of each recipe of recipes/ways, as they stand.

    python benchmarks/ways.py [--out DIR] [--ways NAME …]

Synthetic ECGs of six rhythms; the test patients are in no training, no pretraining and no choice of a checkpoint. Ends
with status 1 when a way reads fewer than 0.9 of the rhythms, or more than the most frequent one gives when it is shown
a blank ECG. A frozen encoder that has never been told about ECGs (llava) is reported, whatever it reaches. Where
``--out`` names a folder, what is finished there is not made again; its seconds then count what this call spent.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "ways"
#: Each has recipes/ways/NAME.yaml.
WAYS = ("scratch", "llava", "finetune", "end-to-end", "ecg-byte", "encoder-free", "dual")
#: Ways whose score is told, and has no bar.
REPORTED = ("llava",)
BAR, BLANK_BAR = 0.90, 0.05


@dataclass(frozen=True)
class Found:
    """What a way came to on test patients: rhythm accuracy with its 95 % interval over patients, the same with a blank
    ECG, that of the most frequent rhythm; steps; processor seconds of pretraining, training, and everything.
    """

    way: str
    accuracy: float
    low: float
    high: float
    blank: float
    majority: float
    num_ecgs: int
    pretraining_steps: int
    steps: int
    pretraining_seconds: float
    training_seconds: float
    all_seconds: float

    @property
    def passed(self) -> bool:
        read = self.accuracy >= BAR or self.way in REPORTED
        return read and self.blank <= self.majority + BLANK_BAR


def commands(recipe: Path) -> list[list[str]]:
    """The ``ecglm …`` commands of a recipe's head comment, as words."""
    head = [line.lstrip("#").strip() for line in recipe.read_text().splitlines() if line.startswith("#")]
    lines = "\n".join(head).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("ecglm ")]


def run_way(way: str, folder: Path) -> Found:
    """Run a way's commands below ``folder``, one after the other; CalledProcessError for one that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipes").exists():
        (folder / "recipes").symlink_to(ROOT / "recipes")
    seconds = {"pretrain": 0.0, "train": 0.0, "other": 0.0}
    steps = {"pretrain": 0, "train": 0}
    predictions = Path()
    for words in commands(RECIPES / f"{way}.yaml"):
        verb = words[1] if words[1] in steps else "other"
        print("$", shlex.join(words), flush=True)
        before = _child_seconds()
        subprocess.run([sys.executable, "-m", "ecglm", *words[1:]], cwd=folder, check=True, env=os.environ)
        seconds[verb] += _child_seconds() - before
        if verb in steps:
            steps[verb] += int(yaml.safe_load((folder / words[2]).read_text())["train"]["max_steps"])
        if words[1] == "score":
            predictions = folder / words[2]
    scores = json.loads((predictions / "scores.json").read_text())
    real, blank = (scores["controls"][control]["rhythm"]["accuracy"] for control in ("real", "blank"))
    return Found(
        way=way,
        accuracy=real["value"],
        low=real["low"],
        high=real["high"],
        blank=blank["value"],
        majority=scores["baselines"]["majority"]["rhythm"]["accuracy"]["value"],
        num_ecgs=int(real["n"]),
        pretraining_steps=steps["pretrain"],
        steps=steps["train"],
        pretraining_seconds=round(seconds["pretrain"], 1),
        training_seconds=round(seconds["train"], 1),
        all_seconds=round(sum(seconds.values()), 1),
    )


def _child_seconds() -> float:
    """Processor seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(found: list[Found]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| way | rhythm [95 %] | blank | majority | steps before | steps | CPU s before | CPU s |"]
    lines.append("|" + "---|" * 8)
    for f in found:
        score = f"{f.accuracy:.3f} [{f.low:.3f}, {f.high:.3f}]"
        cells = [f.way, score, f"{f.blank:.3f}", f"{f.majority:.3f}", str(f.pretraining_steps), str(f.steps)]
        cells += [f"{f.pretraining_seconds:.0f}", f"{f.training_seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = [run_way(way, asked.out or Path(temporary)) for way in asked.ways]
    print("\n".join(table(found)))
    for f in found:
        bar = "reported" if f.way in REPORTED else "reached"
        print(f"{f.way:13} {bar if f.passed else 'MISSED'}")
    passed = all(f.passed for f in found)
    print(json.dumps({"benchmark": "ways", "ways": [asdict(f) for f in found], "passed": passed}, sort_keys=True))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
