"""Verbs: released weights → encoder folders, and released models → checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import say, tell


def import_(
    kind: Positional[Literal["st-mem", "mtae", "mlae", "merl", "pulse"]],
    source: Positional[str],
    out: Path,
    file: str | None = None,
    vision: str | None = None,
    chat_format: str = "llava_v1",
    dtype: Literal["float32", "bfloat16"] | None = None,
    rate: int = 500,
    seg_len: int = 5000,
    overwrite: bool = False,
) -> None:
    """Turn released weights into an encoder folder that a recipe names in model.encoder_from, or, for pulse, into a
    checkpoint that answers.

    Args:
        kind: whose weights they are; pulse is any model in LLaVA-1.6 format.
        source: a file (.pt, .pth, .bin, .safetensors), a folder with one, or a hub id; for pulse a folder or hub id.
        out: the folder to make.
        file: which file of the folder or of the hub's, where there are several encoders.
        vision: for pulse, folder or hub id of the CLIP checkpoint, where the one its config.json names is not at hand.
        chat_format: for pulse, how a talk is written.
        dtype: for pulse, of the language model in use; without, bfloat16 for weights released so, else float32.
        rate: for pulse, samples per second of the signals that are drawn for it.
        seg_len: for pulse, samples of each of them.
        overwrite: replace a folder made from other files.
    """
    if kind == "pulse":
        from ecglm.models.pulse_import import import_pulse, summary

        if file is not None:
            raise EcglmError("--file names one file, and pulse is a folder of them; leave it out")
        folder, facts = import_pulse(
            source,
            out,
            vision=vision,
            chat=chat_format,
            dtype=dtype,
            rate=rate,
            seg_len=seg_len,
            overwrite=overwrite,
        )
        tell(summary(folder, facts))
        say(f"checkpoint: {folder}")
        return
    from ecglm.models import imports

    if vision is not None or dtype is not None:
        raise EcglmError(f"--vision and --dtype are for pulse, not for {kind}; leave them out")
    folder, facts = imports.import_encoder(kind, source, out, file=file, overwrite=overwrite)
    tell(imports.summary(folder, facts))
    say(f"encoder: {folder}")
