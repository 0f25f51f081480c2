"""Reports translated by a MarianMT model (Junczys-Dowmunt et al. 2018, arXiv 1804.00344), each text once."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ecglm.errors import EcglmError
from ecglm.files import append_jsonl, file_sha256, fingerprint, read_jsonl

#: German to English, by the Helsinki NLP group.
DEFAULT_MODEL = "Helsinki-NLP/opus-mt-de-en"
#: Seconds between two lines of progress on stderr.
LINE_EVERY = 5.0
_KEEP = "or keep the reports as they are with translator=phrases"
_FILES = ("*.json", "*.spm", "*.safetensors", "*.bin")


def default_cache() -> Path:
    """Where translations are kept unless told otherwise: in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecglm" / "translations.jsonl"


class MarianTranslator:
    """A translation model, by folder or hub id, behind a cache of what it has translated.

    model: folder of a saved MarianMT model with its tokenizer, or a hub id. batch_size: texts at a time, all of one
    length in tokens, so that a translation does not depend on its neighbours. device: ``"auto"`` takes a GPU if there
    is one. cache: JSON lines of texts' sha256 and their translations, shared by all models; a torn last line (of a
    killed run) is overlooked. Beam search with four beams, nothing drawn at random.

    The model is loaded when the first text is not in the cache. Raises EcglmError, with the way to go on in German,
    where ``sentencepiece`` or the model is missing.
    """

    def __init__(
        self, model: str = DEFAULT_MODEL, batch_size: int = 16, device: str = "auto", cache: Path | None = None
    ) -> None:
        self.model, self.batch_size, self.device = model, batch_size, device
        self.cache = Path(cache) if cache is not None else default_cache()
        self._known: dict[str, str | None] | None = None

    @property
    def name(self) -> str:
        """``"model:"`` and the hub id or the folder's name."""
        return f"model:{Path(self.model).resolve().name if Path(self.model).is_dir() else self.model}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the model's files: another model is another translation."""
        folder = self._folder
        found = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
        return fingerprint({path.name: file_sha256(path) for path in found})

    def translate(self, texts: Sequence[str]) -> list[str | None]:
        """English for every text, None where the model answers nothing; unknown ones are translated and cached."""
        known = self._read_cache()
        keys = [self._key(text) for text in texts]
        waiting = {key: text for key, text in zip(keys, texts, strict=True) if text.strip() and key not in known}
        done, said = 0, time.monotonic()
        for found in self._run(waiting):
            append_jsonl(self.cache, [{"key": key, "english": english} for key, english in found])
            known.update(found)
            done += len(found)
            if time.monotonic() - said > LINE_EVERY:
                said = time.monotonic()
                print(f"{self.name}: {done}/{len(waiting)} reports translated", file=sys.stderr, flush=True)
        return [known.get(key) for key in keys]

    def cached(self, text: str) -> str | None:
        """The translation of a text that was translated before; a text that was not is translated now."""
        return self.translate([text])[0]

    def _key(self, text: str) -> str:
        return hashlib.sha256(f"{self.fingerprint}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()

    def _read_cache(self) -> dict[str, str | None]:
        if self._known is None:
            rows: list[dict[str, Any]] = []
            if self.cache.exists():
                rows = read_jsonl(self.cache, allow_torn=True)
                if not self.cache.read_bytes().endswith(b"\n") and self.cache.stat().st_size:
                    with open(self.cache, "rb+") as handle:  # the next row must not follow half a line
                        data = handle.read()
                        handle.truncate(data.rfind(b"\n") + 1)
            self._known = {str(row.get("key")): row.get("english") for row in rows}
        return self._known

    def _run(self, waiting: dict[str, str]) -> Iterator[list[tuple[str, str | None]]]:
        if not waiting:
            return
        import torch

        tokenizer, model = self._loaded
        limit = int(getattr(model.config, "max_position_embeddings", 512) or 512)
        encoded = {key: tokenizer(_readable(text))["input_ids"][:limit] for key, text in waiting.items()}
        by_length: dict[int, list[str]] = {}
        for key in sorted(encoded, key=lambda k: (len(encoded[k]), encoded[k])):
            by_length.setdefault(len(encoded[key]), []).append(key)
        for keys in by_length.values():
            for at in range(0, len(keys), self.batch_size):
                batch = keys[at : at + self.batch_size]
                ids = torch.tensor([encoded[key] for key in batch], device=model.device)
                with torch.inference_mode():
                    out = model.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        num_beams=4,
                        do_sample=False,
                        max_new_tokens=min(limit - 1, 2 * ids.shape[1] + 16),
                    )
                texts = tokenizer.batch_decode(out, skip_special_tokens=True)
                yield [(key, text.strip() or None) for key, text in zip(batch, texts, strict=True)]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            import sentencepiece  # noqa: F401 - the tokenizer needs it
        except ImportError as error:
            raise EcglmError(
                f"translating with a model needs sentencepiece: pip install 'ecglm[translate]'; {_KEEP}"
            ) from error
        import torch
        from transformers import MarianMTModel, MarianTokenizer

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "Recommended: pip install sacremoses"
                )  # reports need no such cleaning
                tokenizer = MarianTokenizer.from_pretrained(self._folder, local_files_only=True)
            model: Any = MarianMTModel.from_pretrained(self._folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).split("\n", 1)[0][:200]
            raise EcglmError(f"{self.model}: no MarianMT model that can be loaded ({reason}); {_KEEP}") from error
        gpu = torch.cuda.is_available() if self.device == "auto" else False
        return tokenizer, model.eval().to("cuda" if gpu else "cpu" if self.device == "auto" else self.device)

    @functools.cached_property
    def _folder(self) -> Path:
        if Path(self.model).is_dir():
            if not (Path(self.model) / "config.json").is_file():
                raise EcglmError(f"{self.model}: no config.json, so no translation model; name another folder, {_KEEP}")
            return Path(self.model)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.model, allow_patterns=list(_FILES)))
        except (OSError, ValueError) as error:
            reason = str(error).split("\n", 1)[0][:150]
            raise EcglmError(
                f"translation model '{self.model}' is no folder here and cannot be fetched from the Hugging Face hub "
                f"({reason}); name the folder of a saved model with translation_model=DIR, {_KEEP}"
            ) from error


def _readable(text: str) -> str:
    """Umlauts as people write them: PTB-XL has them in capitals inside words, and ``#`` for some."""
    text = re.sub(r"#(?=[a-zäöüß])|(?<=[a-zäöüß])#", "ü", text)
    return re.sub(r"[ÄÖÜÅ](?=[a-zäöüß])|(?<=[a-zäöüß])[ÄÖÜÅ]", lambda found: found[0].lower(), text)
