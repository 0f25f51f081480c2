"""An exported model is the checkpoint, for transformers alone; what its card says; the verbs of verbs/models_hub.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ecglm.cli import main
from ecglm.errors import ConfigError, EcglmError, StaleOutputError
from ecglm.models.adapters import LoraConfig, adapter_weights
from ecglm.models.card import checkpoint_of, count_questions, model_card
from ecglm.models.checkpoint import ModelConfig, create, from_pretrained, push_to_hub, save_pretrained
from ecglm.models.export import export
from ecglm.models.generate import generate
from ecglm.prompts.data import EcgSource
from ecglm.store.reader import SegmentStore


def answers_alone(folder: Path, talks: list[list[dict[str, str]]]) -> list[str]:
    """Greedy answers of a folder by transformers, one talk at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    told = []
    for talk in talks:
        asked = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            out = model.generate(**asked, max_new_tokens=12, do_sample=False)
        told.append(tokenizer.decode(out[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return told


def both(bundle: Any, world: Any) -> tuple[list[Any], list[list[dict[str, str]]]]:
    """Questions of the world as our examples, and as talks in which the ECG's symbols are spelled out."""
    ecgs, names = EcgSource([SegmentStore(world.store)], bundle.representation), bundle.representation.added_tokens
    examples, talks = [], []
    for row in world.conversations()[:6]:
        shown = ecgs.encode(row.ecgs[0])
        spelled = "".join(names[i] for i in shown.token_ids)
        examples.append(bundle.prompter.build(row.id, row.turns[:1], [shown], generate=True))
        talks.append([{"role": "user", "content": row.turns[0].text.replace("<ecg>", spelled)}])
    return examples, talks


@pytest.mark.parametrize("kind", ["tiny", "gpt2", "opt", "qwen2"])
def test_transformers_alone_gives_the_same_answers(kind: str, world, symbols_run, llm_folders, tmp_path: Path) -> None:
    """With adapters and new vocabulary rows that have learned something, and a system prompt."""
    bundle = from_pretrained(symbols_run / "best")
    if kind != "tiny":
        config = ModelConfig(llm=str(llm_folders[kind]), max_len=256, system="Be brief.", lora=LoraConfig(rank=2))
        bundle = create(config, bundle.representation, bundle.pipeline, [], seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, weight in adapter_weights(bundle.elm.llm):
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    save_pretrained(bundle, tmp_path / "checkpoint")
    bundle = from_pretrained(tmp_path / "checkpoint")
    examples, talks = both(bundle, world)
    wanted = [a["text"] for a in generate(bundle.elm, bundle.prompter, examples, max_new_tokens=12)]
    folder = export(tmp_path / "checkpoint", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for example, talk in zip(examples, talks, strict=True):
        found = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert found == example.input_ids.tolist()
    assert answers_alone(folder, talks) == wanted
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".jinja", ".md"}
    assert (folder / "ecg" / "ecg_byte.json").is_file()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert export(tmp_path / "checkpoint", tmp_path / "out") == folder  # finished: left as it is
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_model_with_an_encoder_is_no_language_model_alone(signal_run, symbols_run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="through an encoder"):
        export(signal_run / "best", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(symbols_run / "best", tmp_path / "out")
    other = from_pretrained(symbols_run / "best")
    with torch.no_grad():
        other.elm.llm.get_input_embeddings().weight.add_(1)
    save_pretrained(other, tmp_path / "other")
    with pytest.raises(StaleOutputError):
        export(tmp_path / "other", tmp_path / "out")
    export(tmp_path / "other", tmp_path / "out", overwrite=True)


SCORES = {
    "main": {"rhythm": "accuracy"},
    "controls": {
        "real": {"rhythm": {"accuracy": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 40}}},
        "blank": {"rhythm": {"accuracy": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 40}}},
    },
    "baselines": {"majority": {"rhythm": {"accuracy": {"value": 0.3, "low": None, "high": None, "n": 40}}}},
}


def test_the_card_tells_data_scores_controls_and_limits(world, symbols_run) -> None:
    assert checkpoint_of(symbols_run) == checkpoint_of(symbols_run / "best") == symbols_run / "best"
    rows = world.conversations()
    counted = count_questions([world.data])
    assert sum(counted.values()) == len(rows)
    assert counted["labels", "test"] == sum(r.split == "test" for r in rows) > 0
    assert count_questions([world.folder / "gone.parquet"]) == {}
    card = model_card(symbols_run, data=counted, scores=SCORES)
    cells = " | ".join(str(counted.get(("labels", split), 0)) for split in ("train", "val", "test"))
    assert f"| labels | {cells} | as the recordings' own labels |" in card
    assert "| task | metric | real | blank | majority | n |" in card
    assert "| rhythm | accuracy | 0.900 [0.850, 0.950] | 0.250 [0.200, 0.300] | 0.300 | 40 |" in card
    assert "For research only" in card and "No controls" not in card
    front = card.split("---")[1]
    assert "license: other" in front and "base_model" not in front
    alone = {**SCORES, "controls": {"real": SCORES["controls"]["real"]}}
    assert "**No controls**" in model_card(symbols_run, scores=alone)
    assert "None were given." in model_card(symbols_run)
    assert world.folder.as_posix() not in card
    with pytest.raises(EcglmError, match="no answers on real ECGs"):
        model_card(symbols_run, scores={"controls": {}})


def test_the_verbs(world, symbols_run, tmp_path: Path, capsys) -> None:
    assert main(["export", "--model", str(symbols_run), "--out", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    asked = ["push", "me/ecg", "--model", str(symbols_run), "--scores", str(tmp_path / "scores.json"), "--dry"]
    assert main(asked) == 0
    assert "0.900 [0.850, 0.950]" in capsys.readouterr().out.replace("\n", " ")
    assert main(["push", "me/ecg", "--model", str(tmp_path), "--dry"]) == 2
    assert "no run, checkpoint or export folder" in capsys.readouterr().err


def test_push_needs_a_token(symbols_run, monkeypatch) -> None:
    monkeypatch.setattr("ecglm.models.checkpoint.get_token", lambda: None)
    with pytest.raises(EcglmError, match="HF_TOKEN"):
        push_to_hub(symbols_run / "best", "me/ecg")


PUSH = """
import os, sys
from ecglm.errors import EcglmError
from ecglm.models.checkpoint import push_to_hub
for token in ("hf_right", "hf_wrong"):
    os.environ["HF_TOKEN"] = token
    try:
        print(push_to_hub(sys.argv[1], "me/ecg", card="# The card"))
    except EcglmError as error:
        print("refused:", error)
"""


def test_push_uploads_the_folder_and_its_card(symbols_run, tmp_path: Path) -> None:
    """Against a hub of our own."""
    from conversations import hub_server

    server, address = hub_server.start()
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    env |= {"NO_PROXY": "127.0.0.1,localhost"}
    command = [sys.executable, "-c", PUSH, str(symbols_run / "best")]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    told = done.stdout.strip().splitlines()
    sent = hub_server.Handler.files
    assert sent["README.md"] == b"# The card"
    for file in (p for p in (symbols_run / "best").rglob("*") if p.is_file()):
        assert sent[file.relative_to(symbols_run / "best").as_posix()] == file.read_bytes()
    assert told[1].startswith("refused: me/ecg: the hub refused") and len(told) == 2
