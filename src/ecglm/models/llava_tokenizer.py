"""The tokenizer of a LLaVA-1.6 checkpoint: Llama's slow one, read so that it spells as it did, once and for all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from ecglm.errors import ConfigError, EcglmError
from ecglm.files import read_json, write_json
from ecglm.models.llm import add_ecg_tokens

_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that make up its tokenizer; EcglmError where there is none."""
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & {p.name for p in found}:
        raise EcglmError(f"{folder}: holds no tokenizer (tokenizer.model or tokenizer.json); fetch it")
    return found


def llava_tokenizer(folder: Path, added: tuple[str, ...], num_rows: int) -> Any:
    """The tokenizer with a padding token that exists already, and the placeholder, for which there is no row.

    Raises ConfigError where it cannot be read, EcglmError for one of more tokens than the model has rows.
    """
    with tempfile.TemporaryDirectory() as temporary:  # away from a config.json that the library does not know
        for file in tokenizer_files(folder):
            shutil.copyfile(file, Path(temporary) / file.name)
        _say_legacy(Path(temporary))
        try:
            with _quiet():
                tokenizer: Any = _frozen(AutoTokenizer.from_pretrained(temporary))
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            lacks = not (folder / "tokenizer.json").is_file() and find_spec("sentencepiece") is None
            mend = "tokenizer.model needs: pip install ecglm[pulse]" if lacks else "fetch it again"
            raise ConfigError(f"{folder}: its tokenizer cannot be read ({said}); {mend}") from error
    # The library makes an empty one of a damaged file, and says nothing.
    if set(tokenizer.encode("A chat", add_special_tokens=False)) <= {tokenizer.unk_token_id}:
        raise ConfigError(f"{folder}: its tokenizer knows no letters; its file is damaged, fetch it again")
    if len(tokenizer) > num_rows:
        raise EcglmError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {num_rows} rows; fetch both again"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    add_ecg_tokens(None, tokenizer, added)
    for key in ("is_local", "local_files_only", "name_or_path"):  # where it lay must not show
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library says of its second ways to read a file: what fails is told once."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


def _say_legacy(folder: Path) -> None:
    """A slow tokenizer whose settings do not say ``legacy`` is legacy: so its own code has it, not so the library."""
    file = folder / "tokenizer_config.json"
    told = read_json(file) if file.is_file() else {"tokenizer_class": "LlamaTokenizer"}
    if not (folder / "tokenizer.json").is_file() and told.get("legacy") is None:
        write_json(file, {**told, "legacy": True})


def _frozen(tokenizer: Any) -> Any:
    """The tokenizer as its tokenizer.json alone will say it: a Llama class would build itself anew when it is loaded,
    and forget ``legacy``.
    """
    named = ("bos_token", "eos_token", "unk_token", "pad_token")
    roles = {name: str(token) for name in named if (token := getattr(tokenizer, name)) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        **roles,
    )
