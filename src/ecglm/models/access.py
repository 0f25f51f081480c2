"""What can be known of a language model before its weights load: whether it is to be had, and how it is to be run."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import HFValidationError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoTokenizer

from ecglm.errors import ConfigError
from ecglm.models.config import ModelConfig
from ecglm.prompts.chat import chat_format, refuse_mismatch
from ecglm.types import ECG_MARK

#: The hub's answer is waited for so long, then its cache is asked.
SECONDS = 3.0
MAX_SYSTEM_BYTES = 1 << 16
#: What the hub's client raises when nobody answers: its HTTP library's own root of errors, and the system's.
_HTTP_ERROR: type[BaseException] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def check_access(name: str) -> None:
    """ConfigError, with the mend, where a language model cannot be had: no such folder or hub id, a gated one without a
    token or an accepted licence, or a hub out of reach and nothing in the cache. One small request, no download.
    """
    if Path(name).is_dir():
        return
    if Path(name).is_absolute() or name.startswith((".", "~")) or not 0 < len(name.split("/")) < 3:
        raise ConfigError(f"model.llm: {name} is no folder, and no hub id (owner/name); name one that is there")
    page = f"{constants.ENDPOINT}/{name}"
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
        if constants.HF_HUB_OFFLINE:
            if not cached:
                raise ConfigError(
                    f"model.llm: {name} is not in the hub's cache and HF_HUB_OFFLINE forbids to fetch it; unset that, "
                    "or name a folder"
                )
            return
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=SECONDS)
    except HFValidationError as error:
        raise ConfigError(f"model.llm: {name} is no folder, and not a possible hub id (owner/name)") from error
    except GatedRepoError as error:
        if get_token() is None:
            mend = f"accept its licence at {page}, then set HF_TOKEN or run: hf auth login"
        else:
            mend = f"your token has no access yet; accept its licence at {page}"
        raise ConfigError(f"model.llm: {name} is gated; {mend}") from error
    except RepositoryNotFoundError as error:
        private = "" if get_token() else "; for a private one set HF_TOKEN or run: hf auth login"
        raise ConfigError(f"model.llm: the hub has no {name}; check the spelling (owner/name){private}") from error
    except EntryNotFoundError as error:
        raise ConfigError(f"model.llm: {name} holds no config.json; name a causal language model") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "")
        if status in (401, 403):
            raise ConfigError(
                f"model.llm: the hub refuses {name} ({status}); renew your token: hf auth login"
            ) from error
        if not cached:
            raise ConfigError(
                f"model.llm: the hub cannot give {name} now (status {status}); try again later"
            ) from error
    except (OSError, _HTTP_ERROR) as error:
        if not cached:
            raise ConfigError(
                f"model.llm: the hub cannot be reached ({constants.ENDPOINT}) and {name} is not in its cache; go "
                "online, or name a folder"
            ) from error


def check_language_model(model: ModelConfig) -> None:
    """ConfigError for a language model that cannot be had, reads too few tokens, cannot be run as ``model`` says, or
    whose tokenizer writes a talk otherwise than the chat format. Weights are not read.
    """
    read_system(model)
    if model.llm == "tiny":
        return
    check_access(model.llm)
    try:
        config = AutoConfig.from_pretrained(model.llm, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(model.llm, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"model.llm: '{model.llm}' cannot be loaded: {first}") from error
    check_length(model, config)
    choose_attention(model, config)
    refuse_mismatch(tokenizer, chat_format(model.chat_format, tokenizer))


def check_length(model: ModelConfig, config: Any) -> None:
    """ConfigError where ``model.max_len`` is more than the language model reads."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and model.max_len > positions:
        most = f"{model.llm} reads at most {positions} tokens"
        raise ConfigError(f"model.max_len is {model.max_len}, but {most}; lower model.max_len")


def choose_attention(model: ModelConfig, config: Any, *, device: str = "cpu", own_masks: bool = False) -> str:
    """The attention implementation for a language model of this configuration: ``model.attention``, or for ``auto`` the
    fastest there is: flash_attention_2 on a GPU in half precision where it is installed, else sdpa where the family has
    it, else eager. own_masks: the batches bring masks that flash attention cannot read.

    Raises ConfigError for one that was asked for and cannot be had.
    """
    family = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    sdpa = bool(getattr(family, "_supports_sdpa", False))
    flash = bool(getattr(family, "_supports_flash_attn", False))
    half = model.dtype == "bfloat16"
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    lacking = [
        what
        for what, there in (
            (f"{model.llm} to support it", flash),
            ("the package flash-attn", importlib.util.find_spec("flash_attn") is not None),
            ("model.dtype: bfloat16", half),
        )
        if not there
    ]
    if model.attention == "flash_attention_2" and lacking:
        raise ConfigError(f"model.attention: flash_attention_2 needs {' and '.join(lacking)}; use auto")
    if model.attention == "flash_attention_2" and (own_masks or model.ecg_attention != "causal"):
        mend = "train.share_ecg: false" if own_masks else "model.ecg_attention: causal"
        raise ConfigError(f"model.attention: flash_attention_2 cannot read masks; set {mend}, or use auto")
    if model.attention == "sdpa" and not sdpa:
        raise ConfigError(f"model.attention: {model.llm} has no sdpa; use auto or eager")
    if model.attention != "auto":
        return model.attention
    if gpu and not lacking and not own_masks and model.ecg_attention == "causal":
        return "flash_attention_2"
    return "sdpa" if sdpa else "eager"


def read_system(model: ModelConfig) -> ModelConfig:
    """The settings with the text of ``system_file`` in ``system``; ConfigError where it cannot be used."""
    if model.system_file is None:
        return model
    try:
        size = os.stat(model.system_file).st_size
        text = Path(model.system_file).read_text(encoding="utf-8-sig") if size <= MAX_SYSTEM_BYTES else ""
    except OSError as error:
        raise ConfigError(f"model.system_file: {model.system_file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"model.system_file: {model.system_file} is not UTF-8 text; save it so") from error
    if size > MAX_SYSTEM_BYTES:
        raise ConfigError(f"model.system_file: {model.system_file} has {size} bytes; {MAX_SYSTEM_BYTES} are the most")
    if not text.strip() or "\0" in text:
        raise ConfigError(f"model.system_file: {model.system_file} is empty or no text; write the system prompt there")
    if ECG_MARK in text:
        raise ConfigError(f"model.system_file: {model.system_file} holds {ECG_MARK}; an ECG is shown by a user's turn")
    return replace(model, system=text.strip(), system_file=None)
