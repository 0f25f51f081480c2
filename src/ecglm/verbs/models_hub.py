"""Verbs: trained models as folders for others, and on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ecglm.errors import EcglmError
from ecglm.verbs.common import say


def export_(
    model: str, out: Path, format: Literal["transformers", "llava"] = "transformers", overwrite: bool = False
) -> None:
    """Write a model as others read it: one of ECG symbols for transformers alone, one of tiles as LLaVA-1.6.

    Args:
        model: run or checkpoint folder, or hub id.
        out: the folder to make.
        format: transformers, for a model that reads ECG symbols, or llava, for one that reads tiles (anyres), as PULSE.
        overwrite: replace a folder made of another model.
    """
    from ecglm.models.card import checkpoint_of

    source = checkpoint_of(model) if Path(model).is_dir() else model
    if format == "llava":
        from ecglm.models.pulse_export import export_llava

        say(f"model: {export_llava(source, out, overwrite=overwrite)}")
        return
    from ecglm.models.export import export

    say(f"model: {export(source, out, overwrite=overwrite)}")


def push(
    repo: Positional[str], model: Path, scores: Path | None = None, public: bool = False, dry: bool = False
) -> None:
    """Upload a model to the hub with a card of its data, scores and limits; the token is HF_TOKEN of the environment.

    Args:
        repo: name of the model, OWNER/NAME.
        model: run or checkpoint folder, or a folder of ecglm export.
        scores: a scores.json of this model, for the card.
        public: let everybody see it.
        dry: print the card and upload nothing.
    """
    from ecglm import config
    from ecglm.files import MANIFEST, read_json
    from ecglm.models.card import checkpoint_of, count_questions, model_card
    from ecglm.models.checkpoint import KIND, push_to_hub
    from ecglm.models.export import KIND as EXPORT
    from ecglm.training.recipe import Recipe

    folder = checkpoint_of(model)
    if not (folder / MANIFEST).is_file():
        raise EcglmError(f"{model}: no run, checkpoint or export folder (it has no {MANIFEST})")
    found = None if scores is None else read_json(scores)
    kind = EXPORT if read_json(folder / MANIFEST).get("kind") == EXPORT else KIND
    if kind == EXPORT:
        if found is not None:
            raise EcglmError(f"{model}: an export keeps its own card; push the run itself to show scores")
        card = (folder / "README.md").read_text(encoding="utf-8")
    else:
        recipe = folder.parent / "recipe.yaml"
        files = config.load(recipe, Recipe).data.files if recipe.is_file() else ()
        card = model_card(folder, data=count_questions(files), scores=found)
    if dry:
        say(card)
        return
    say(f"model: {push_to_hub(folder, repo, private=not public, card=card, kind=kind)}")
