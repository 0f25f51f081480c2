"""Before anything loads: whether a language model is to be had, what it needs, and the system prompt from a file."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config, GPT2Config, LlamaConfig

from ecglm.errors import ConfigError
from ecglm.models.access import check_access, check_language_model, choose_attention, read_system
from ecglm.models.checkpoint import ModelConfig, create, from_pretrained, save_pretrained
from ecglm.models.llm import load_llm
from ecglm.representations.signal import SignalRepresentation
from ecglm.types import Turn
from prompts.families import BUILDERS


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to the first request for a model's configuration, by the model's name."""

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        owner, name = self.path.split("/")[1:3]
        name = owner if name == "kept" else name
        right = self.headers.get("authorization") == "Bearer hf_right"
        if name == "gone":
            self.close_connection = True
            return
        if name == "slow":
            time.sleep(4)
        status, code = {
            "open": (200, ""),
            "gated": (200, "") if right else (403 if self.headers.get("authorization") else 401, "GatedRepo"),
            "absent": (404, "RepoNotFound"),
            "bare": (404, "EntryNotFound"),
            "busy": (503, ""),
            "expired": (403, ""),
        }.get(name, (200, ""))
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "c" * 40)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


ASK = """
import json, os, sys, time
from ecglm.errors import ConfigError
from ecglm.models.access import check_access
told = {}
for token, name in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    began = time.monotonic()
    try:
        check_access(name)
        told[f"{token}:{name}"] = ""
    except ConfigError as error:
        told[f"{token}:{name}"] = str(error)
    assert time.monotonic() - began < 10, name
print(json.dumps(told))
"""


def test_the_hubs_answers_come_as_one_line_with_the_mend_in_seconds(tmp_path: Path) -> None:
    """Against a hub of our own; nothing is downloaded."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cached = tmp_path / "home" / "hub" / "models--gone--kept"
    for kept in (cached, cached.with_name("models--busy--kept")):
        (kept / "refs").mkdir(parents=True)
        (kept / "refs" / "main").write_text("c" * 40)
        (kept / "snapshots" / ("c" * 40)).mkdir(parents=True)
        (kept / "snapshots" / ("c" * 40) / "config.json").write_text("{}")
    asked = [["", f"x/{n}"] for n in ("open", "gated", "absent", "bare", "busy", "gone", "slow", "expired")]
    asked += [["hf_right", "x/gated"], ["hf_other", "x/gated"], ["", "gone/kept"], ["", "busy/kept"]]
    address = f"http://127.0.0.1:{server.server_address[1]}"
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps(asked)], env=env, capture_output=True, text=True, timeout=120
        )
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all("\n" not in line for line in told.values())
    assert told[":x/open"] == told["hf_right:x/gated"] == ""
    assert told[":gone/kept"] == told[":busy/kept"] == ""  # their configuration lies in the cache
    licence = f"accept its licence at {address}/x/gated"
    assert told[":x/gated"] == f"model.llm: x/gated is gated; {licence}, then set HF_TOKEN or run: hf auth login"
    assert told["hf_other:x/gated"] == f"model.llm: x/gated is gated; your token has no access yet; {licence}"
    assert "the hub has no x/absent" in told[":x/absent"] and "HF_TOKEN" in told[":x/absent"]
    assert "holds no config.json" in told[":x/bare"]
    assert "try again later" in told[":x/busy"] and "503" in told[":x/busy"]
    for name in ("gone", "slow"):
        assert f"cannot be reached ({address})" in told[f":x/{name}"] and "go online" in told[f":x/{name}"]
    assert "renew your token" in told[":x/expired"]


def test_offline_only_what_is_there_can_be_had(tmp_path: Path, llm_folders) -> None:
    check_access(str(llm_folders["gpt2"]))
    for name, told in {
        "meta-llama/Llama-3.2-1B-Instruct": "HF_HUB_OFFLINE",
        str(tmp_path / "absent"): "is no folder",
        "a/b/c": "no hub id",
        "./x": "is no folder",
        "what ever/it is": "not a possible hub id",
    }.items():
        with pytest.raises(ConfigError, match=told) as error:
            check_access(name)
        assert "\n" not in str(error.value) and name in str(error.value)


def folder_with(tokenizer: Any, source: Path, to: Path) -> str:
    """A model folder with another tokenizer: of it, only configuration and tokenizer are looked at here."""
    shutil.copytree(source, to)
    for file in to.glob("*token*"):
        file.unlink()
    (to / "model.safetensors").unlink()
    tokenizer.save_pretrained(to)
    return str(to)


def test_a_model_is_checked_without_its_weights(tmp_path: Path, llm_folders) -> None:
    llm = folder_with(BUILDERS["qwen2.5"](), llm_folders["qwen2"], tmp_path / "qwen")
    check_language_model(ModelConfig(llm=llm))
    check_language_model(ModelConfig())
    check_language_model(ModelConfig(llm=llm, chat_format="plain"))
    for wrong, told in {
        "chatml": r"'chatml' is not how this tokenizer writes a talk: one question.*model\.chat_format: auto",
        "lama3": "did you mean 'llama3'",
        "gemma": "<end_of_turn>",
    }.items():
        with pytest.raises(ConfigError, match=told):
            check_language_model(ModelConfig(llm=llm, chat_format=wrong))
    with pytest.raises(ConfigError, match="at most"):
        check_language_model(ModelConfig(llm=llm, max_len=10**6))
    (Path(llm) / "config.json").write_text('{"model_type": "no_such"}')
    with pytest.raises(ConfigError, match="cannot be loaded") as error:
        check_language_model(ModelConfig(llm=llm))
    assert "\n" not in str(error.value)


def test_another_familys_format_stops_a_run_at_its_start(tmp_path: Path, llm_folders) -> None:
    llm = tmp_path / "llm"
    shutil.copytree(llm_folders["qwen2"], llm)
    _, tokenizer = load_llm(str(llm))
    tokenizer.chat_template = BUILDERS["qwen2.5"]().chat_template
    tokenizer.save_pretrained(llm)
    shown = SignalRepresentation(num_tokens=4, num_samples=250)
    config = ModelConfig(llm=str(llm), encoder_options={"widths": [16], "stem_stride": 4}, max_len=200)
    assert create(config, shown, {"rate": 50}, [], seed=0).prompter.chat.name == "qwen2.5"
    wrong = ModelConfig(llm=str(llm), chat_format="chatml", max_len=200)
    with pytest.raises(ConfigError, match="not how this tokenizer writes a talk"):
        create(wrong, shown, {"rate": 50}, [], seed=0)


def test_attention_is_the_fastest_there_is(monkeypatch) -> None:
    llama, gemma2, gpt2 = LlamaConfig(), Gemma2Config(), GPT2Config()
    half = ModelConfig(llm="x", dtype="bfloat16")
    assert choose_attention(ModelConfig(llm="x"), llama) == "sdpa"
    assert choose_attention(half, gpt2, device="cuda:0") == "sdpa"  # no package flash-attn here
    assert choose_attention(ModelConfig(llm="x"), gemma2) == "eager"  # soft-capped logits: transformers has no sdpa
    with pytest.raises(ConfigError, match="has no sdpa; use auto or eager"):
        choose_attention(ModelConfig(llm="x", attention="sdpa"), gemma2)
    with pytest.raises(ConfigError, match=r"needs the package flash-attn and model\.dtype: bfloat16; use auto"):
        choose_attention(ModelConfig(llm="x", attention="flash_attention_2"), llama)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_attention(half, llama, device="cuda:1") == "flash_attention_2"
    assert choose_attention(half, gemma2, device="cuda") == "flash_attention_2"
    assert choose_attention(half, llama, device="cpu") == "sdpa"
    assert choose_attention(half, llama, device="cuda", own_masks=True) == "sdpa"
    assert choose_attention(ModelConfig(llm="x"), llama, device="cuda") == "sdpa"  # single precision
    asked = ModelConfig(llm="x", dtype="bfloat16", attention="flash_attention_2")
    assert choose_attention(asked, llama, device="cuda") == "flash_attention_2"
    with pytest.raises(ConfigError, match=r"flash_attention_2 cannot read masks; set train\.share_ecg: false"):
        choose_attention(asked, llama, device="cuda", own_masks=True)
    both = ModelConfig(llm="x", dtype="bfloat16", ecg_attention="bidirectional")
    assert choose_attention(both, llama, device="cuda") == "sdpa"
    assert choose_attention(ModelConfig(llm="x", attention="eager"), llama, device="cuda") == "eager"


def test_the_system_prompt_comes_from_a_file_and_stays_with_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_text("\ufeffYou read ECGs.\nSay what you see. é\n", encoding="utf-8")
    config = ModelConfig(system_file=str(file), encoder_options={"widths": [16], "stem_stride": 4}, max_len=200)
    text = "You read ECGs.\nSay what you see. é"
    assert read_system(config).system == text and read_system(config).system_file is None
    shown = SignalRepresentation(num_tokens=4, num_samples=250)
    bundle = create(config, shown, {"rate": 50}, ["Hello", text], seed=0)
    save_pretrained(bundle, tmp_path / "checkpoint")
    file.unlink()
    again = from_pretrained(tmp_path / "checkpoint")
    for prompter in (bundle.prompter, again.prompter):
        built = prompter.build("x", [Turn("user", "Hello")], [], generate=True)
        assert prompter.tokenizer.decode(built.input_ids).startswith(f"<|im_start|>system\n{text}<|im_end|>\n")


def test_a_system_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    for content, told in {
        b"  \n": "is empty",
        b"\xff\xfe": "not UTF-8",
        b"a\0b": "no text",
        b"Look at <ecg>.": "user's turn",
        b"x" * 70_000: "65536 are the most",
    }.items():
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=told):
            check_language_model(ModelConfig(system_file=str(file)))
    with pytest.raises(ConfigError, match=r"system_file.*cannot be read"):
        check_language_model(ModelConfig(system_file=str(tmp_path / "none.txt")))
    with pytest.raises(ValueError, match="drop one"):
        ModelConfig(system="a", system_file="b")
    with pytest.raises(ValueError, match=r"model\.dtype: tiny"):
        ModelConfig(dtype="bfloat16")


def test_a_run_is_known_by_what_the_system_file_says_not_by_where_it_lies(world, tmp_path: Path) -> None:
    from ecglm.training.run import _settings

    def settings(name: str, text: str) -> Any:
        (tmp_path / name).write_text(text)
        recipe = world.recipe()
        return _settings(dataclasses.replace(recipe, model=ModelConfig(system_file=str(tmp_path / name))), None)

    one, moved, other = settings("a.txt", "Be brief."), settings("b.txt", "Be brief.\n"), settings("c.txt", "Be long.")
    assert one == moved != other and one["model"]["system"] == "Be brief."


def test_a_recipe_is_refused_for_its_language_model_before_data_is_read(world, llm_folders, tmp_path: Path) -> None:
    from ecglm.training.check import check_recipe

    llm = tmp_path / "llm"
    shutil.copytree(llm_folders["qwen2"], llm)
    recipe = world.recipe()
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, files=(str(tmp_path / "none"),)))
    for model, told in [
        (ModelConfig(llm="owner/absent"), "HF_HUB_OFFLINE"),
        (ModelConfig(llm=str(llm), chat_format="gemma"), "<end_of_turn>"),
        (ModelConfig(llm=str(llm), attention="flash_attention_2"), "flash-attn"),
        (ModelConfig(system_file=str(tmp_path / "none.txt")), "cannot be read"),
    ]:
        began = time.monotonic()
        with pytest.raises(ConfigError, match=told):
            check_recipe(dataclasses.replace(recipe, model=model))
        assert time.monotonic() - began < 5
