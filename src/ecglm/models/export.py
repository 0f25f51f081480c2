"""A model of ECG symbols → a folder that ``transformers`` alone can load: adapters merged, chat template set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import GenerationConfig

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.files import (
    MANIFEST,
    atomic_dir,
    file_sha256,
    output_state,
    plan_fingerprint,
    write_json,
    write_manifest,
    write_text,
)
from ecglm.models.adapters import ecg_gate, plain_llm
from ecglm.models.checkpoint import Bundle, from_pretrained, writing_weights
from ecglm.models.llm import no_bars
from ecglm.prompts.template import to_template
from ecglm.types import ECG_MARK, EcgInput, Turn

KIND = "export"

_USE = """# A language model that reads ECG symbols

Exported by `ecglm`; `transformers` alone loads it. For research only: not a medical device.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
ecg = "{example}"  # the ECG's symbols, one after another
talk = [{{"role": "user", "content": ecg + "\\nWhat is the rhythm?"}}]
asked = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**asked, max_new_tokens=64)[0, asked["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

`ecg/` holds what turns a recording into symbols: the representation's files, and its pipeline in `settings.json`.
In `ecglm` the symbols of a segment are `[added_tokens[i] for i in representation(segment, rate).token_ids]`.
"""


def export(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a checkpoint (folder or hub id) whose ECGs are symbols as an ordinary language model with its tokenizer.

    Greedy answers are those of the checkpoint. Raises ConfigError for a model with an encoder, which is no language
    model alone, and for one whose prompts no template writes token for token; StaleOutputError for an ``out`` of
    another model, unless ``overwrite``.
    """
    bundle, folder = from_pretrained(source), Path(out)
    llm = bundle.elm.llm
    if bundle.elm.encoder is not None or ecg_gate(llm) is not None:
        raise ConfigError(
            f"{source}: this model reads ECGs through an encoder, which transformers alone cannot run; load it with "
            "ecglm, or export one of the representation symbols"
        )
    settings = {"model": strict.to_dict(bundle.model), "weights": _weights(source)}
    if output_state(folder, KIND, plan_fingerprint(KIND, settings, {}), overwrite) == "finished":
        return folder
    tokenizer, chat = bundle.prompter.tokenizer, bundle.prompter.chat
    tokenizer.chat_template = to_template(chat, bundle.prompter.system)
    _check_prompts(bundle, str(source))
    plain = plain_llm(llm)
    plain.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=bundle.prompter.end_id, pad_token_id=tokenizer.pad_token_id
    )
    with writing_weights(folder), atomic_dir(folder) as temporary:
        with no_bars():
            plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "ecg").mkdir()
        bundle.representation.save(temporary / "ecg")
        made = {"representation": bundle.representation.config(), "pipeline": bundle.pipeline}
        write_json(temporary / "ecg" / "settings.json", made)
        write_text(temporary / "README.md", _USE.format(example="".join(bundle.representation.added_tokens[:2])))
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        outputs = {p.relative_to(temporary).as_posix(): file_sha256(p) for p in files}
        write_manifest(temporary / MANIFEST, KIND, settings, {}, outputs)
    return folder


def _weights(source: str | Path) -> str:
    folder = Path(source)
    return file_sha256(folder / MANIFEST) if folder.is_dir() else str(source)


def _check_prompts(bundle: Bundle, source: str) -> None:
    """That the tokenizer reads a talk written by its template as the model was trained to read it."""
    prompter, names = bundle.prompter, bundle.representation.added_tokens
    shown = EcgInput(np.arange(min(len(names), 3)))
    turns = [Turn("user", f"{ECG_MARK}\nWhat is the rhythm?"), Turn("assistant", "sinus rhythm"), Turn("user", "And?")]
    spelled = "".join(names[i] for i in shown.token_ids)
    messages = [{"role": t.role, "content": t.text.replace(ECG_MARK, spelled)} for t in turns]
    ours = [i for _, ids in prompter.spell(_with_system(bundle, turns), [shown], generate=True) for i in ids]
    theirs = prompter.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    if ours != theirs:
        raise EcglmError(f"{source}: no chat template writes {prompter.chat.name} token for token; use it with ecglm")


def _with_system(bundle: Bundle, turns: list[Turn]) -> list[Turn]:
    return [Turn("system", bundle.prompter.system), *turns] if bundle.prompter.system else turns
