"""Hand-written ECG files for the tests of readers: WFDB records as the standard describes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def random_counts(num_samples: int = 400, num_leads: int = 12, seed: int = 0) -> np.ndarray:
    """int16 ``(samples, leads)``; with a gain of 1000/mV a plausible size for an ECG."""
    rng = np.random.default_rng(seed)
    return rng.integers(-700, 900, size=(num_samples, num_leads), dtype=np.int16)


def _write(
    folder: Path,
    counts: np.ndarray | None = None,
    *,
    name: str = "rec",
    leads: Sequence[str] = TWELVE,
    gain: str = "1000.0(0)/mV",
    rate: str = "500",
    fmt: str = "16",
    data: str = "",
    record_line: str | None = None,
    newline: str = "\n",
    tail: Sequence[str] = (),
) -> Path:
    """Write ``name.hea`` and ``name.dat`` into ``folder``; the path of the header."""
    counts = random_counts(num_leads=len(leads)) if counts is None else counts
    data = data or f"{name}.dat"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record_line if record_line is not None else f"{name} {len(leads)} {rate} {len(counts)}"]
    for column, lead in enumerate(leads):
        values = counts[:, column].astype(np.int64)
        first = int(values[0]) if len(values) else 0
        checksum = (int(values.sum()) + 0x8000) % 0x10000 - 0x8000
        lines.append(f"{data} {fmt} {gain} 16 0 {first} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_bytes("".join(line + newline for line in [*lines, *tail]).encode())
    (folder / f"{name}.dat").write_bytes(counts.astype("<i2").tobytes())
    return folder / f"{name}.hea"


@pytest.fixture
def write_record() -> Callable[..., Path]:
    return _write


@pytest.fixture
def counts() -> Callable[..., np.ndarray]:
    return random_counts


@pytest.fixture
def edit_header() -> Callable[[Path, int, int, Any], None]:
    """Replace one blank-separated field of one line (both counted from 0) of a header."""

    def edit(header: Path, line: int, field: int, value: Any) -> None:
        lines = header.read_text().split("\n")
        fields = lines[line].split()
        fields[field] = str(value)
        lines[line] = " ".join(f for f in fields if f)
        header.write_text("\n".join(lines))

    return edit


#: What the tiny translation model has learnt by heart.
LEARNT = {
    "heute unruhig": "restless today",
    "sinusrhythmus normales ekg, heute unruhig": "sinus rhythm normal ecg, restless today",
    "st-senkung über der brustwand": "st depression over the chest wall",
    "überleitung besser als gestern": "conduction better than yesterday",
}


@pytest.fixture(scope="session")
def tiny_marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a MarianMT model of a few thousand weights that has learnt four sentences by heart."""
    import json

    import sentencepiece
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-de-en"
    folder.mkdir()
    pieces = []
    for side, texts in (("source", LEARNT.keys()), ("target", LEARNT.values())):
        (folder / "text").write_text("\n".join([*texts] * 5))
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / side),
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        vocab = (folder / f"{side}.vocab").read_text().splitlines()
        pieces += [line.split("\t")[0] for line in vocab]
        (folder / f"{side}.vocab").unlink()
    (folder / "text").unlink()
    plain = dict.fromkeys(p for p in pieces if p not in ("<s>", "</s>", "<unk>"))
    words = {word: i for i, word in enumerate(["</s>", "<unk>", *plain, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"), source_lang="de",
        target_lang="en",
    )  # fmt: skip
    pad = words["<pad>"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
                 (("layers", 1), ("ffn_dim", 64), ("attention_heads", 2))}  # fmt: skip
        model = MarianMTModel(
            MarianConfig(vocab_size=len(words), d_model=32, max_position_embeddings=128, pad_token_id=pad,
                         decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0, dropout=0.0, **sizes)
        )  # fmt: skip
        batch = tokenizer(list(LEARNT), text_target=list(LEARNT.values()), padding=True, return_tensors="pt")
        batch["labels"][batch["labels"] == pad] = -100
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
