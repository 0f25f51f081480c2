"""The memory of a recipe: its model without weights, and about its largest batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ecglm import registry
from ecglm.training.activations import checkpoint_layers
from ecglm.training.distributed import shares
from ecglm.training.memory import Batch, estimate, llm_without_weights, size_text


def batch_of(
    recipe: Any, conversations: Sequence[Any], representation: Any, ecg_tokens: int, rows: int, tiles: int = 1
) -> Batch:
    """About the largest batch of a recipe, from its training questions; three characters are taken for a token. tiles:
    tensors of one ECG.
    """
    share, most = recipe.train.share_ecg, recipe.model.max_len
    whole: dict[Any, int] = {}
    answers: dict[Any, int] = {}
    ecgs: dict[Any, int] = {}
    told = 0 if (rag := getattr(recipe, "rag", None)) is None else rag.max_tokens
    for number, c in enumerate(conversations):
        row = c.ecgs if share and len(c.ecgs) == 1 else number
        ecgs[row] = len(c.ecgs)
        spoken = sum(len(t.text) // 3 + 8 for t in c.turns)
        whole[row] = whole.get(row, 20 + told + ecg_tokens * len(c.ecgs)) + spoken
        answers[row] = answers.get(row, 0) + sum(len(t.text) // 3 + 2 for t in c.turns if t.role == "assistant")
    length = min(max(whole.values()), most)
    learned = min(max(answers.values()), length - 1) * rows
    number_of_ecgs = max(ecgs.values()) * rows
    if recipe.train.packing:  # rows are full, of sequences of every length
        length = recipe.train.pack_len or most
        share_of = length * rows / max(sum(whole.values()), 1)
        learned = max(round(share_of * sum(answers.values())), 1)
        number_of_ecgs = max(round(share_of * sum(ecgs.values())), 1)
    shown = getattr(representation, "main", representation)
    first, image = getattr(shown, "signal", shown), getattr(shown, "image", None)
    shape = tuple(getattr(first, "input_shape", None) or ())
    dtype = torch.uint8 if len(shape) == 3 else torch.float32
    picture = () if image is None else tuple(image.input_shape)
    kept = min(learned if not recipe.train.packing else -(-learned // rows), length - 1)
    return Batch(
        rows,
        length,
        learned,
        kept,
        number_of_ecgs * tiles if shape else 0,
        shape,
        dtype,
        picture,
        share and not recipe.train.packing,
    )


def without_weights(recipe: Any, representation: Any) -> Any:
    """The ELM of a recipe on the meta device: shapes, and which parts learn; no weight is made or read."""
    from ecglm.models.access import choose_attention
    from ecglm.models.adapters import add_lora
    from ecglm.models.connector import Connector, TileConnector
    from ecglm.models.elm import Elm, usual_parts
    from ecglm.models.encoders.base import build_encoder
    from ecglm.models.towers import resolved

    model, _ = resolved(recipe.model, verify=False)
    config = _llm_config(model, len(representation.added_tokens))
    kind = choose_attention(model, config, own_masks=recipe.train.share_ecg)
    llm = llm_without_weights(
        config, attention="eager" if kind == "eager" else "sdpa", dtype=getattr(torch, model.dtype)
    )
    hidden = llm.get_input_embeddings().weight.shape[1]
    shown = getattr(representation, "main", representation)
    parts: dict[str, Any] = {}
    with torch.device("meta"):
        if representation.placeholder is not None:
            tower: Any = build_encoder(
                str(model.encoder),
                input_shape=getattr(shown, "signal", shown).input_shape,
                options=_plain_options(str(model.encoder), model.encoder_options),
            )
            num_tokens = getattr(shown, "signal", shown).num_tokens
            parts = {"encoder": tower, "placeholder_id": 0}
            if getattr(shown, "tiled", False):
                cut: dict[str, Any] = {"patches": shown.patches, "merge": shown.merge}
                parts["connector"] = TileConnector(model.connector, dim=tower.dim, hidden=hidden, **cut)
            else:
                parts["connector"] = Connector(model.connector, dim=tower.dim, hidden=hidden, num_tokens=num_tokens)
            if model.image is not None:
                options = _plain_options(model.image.encoder, model.image.encoder_options)
                second: Any = build_encoder(model.image.encoder, input_shape=shown.image.input_shape, options=options)
                sizes: dict[str, Any] = {"hidden": hidden, "num_tokens": shown.image.num_tokens}
                parts["image_connector"] = Connector(model.image.connector, dim=second.dim, **sizes)
                parts |= {"image_encoder": second, "image_placeholder_id": 1, "shared": model.image.shared}
                if model.image.shared:
                    sizes = {"hidden": second.dim, "num_tokens": num_tokens}
                    parts["connector"] = Connector("linear", dim=tower.dim, **sizes)
    if model.lora is not None:
        add_lora(llm, model.lora, [], 0)
    elm = Elm(llm, **parts)
    elm.set_trainable(recipe.train.parts or usual_parts(elm))
    if recipe.train.gradient_checkpointing:
        checkpoint_layers(elm)
    return elm


def _llm_config(model: Any, num_added: int) -> Any:
    from transformers import AutoConfig, LlamaConfig

    if model.llm != "tiny":
        config = AutoConfig.from_pretrained(model.llm)
        text = config.get_text_config()
        text.vocab_size += num_added if model.start_from is None else 0
        return config
    return LlamaConfig(
        vocab_size=model.tiny.vocab_size + num_added,
        hidden_size=model.tiny.hidden,
        intermediate_size=3 * model.tiny.hidden,
        num_hidden_layers=model.tiny.num_layers,
        num_attention_heads=model.tiny.num_heads,
        tie_word_embeddings=True,
    )


def _plain_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of an encoder without the file of its weights: its configuration stands in."""
    if options.get("weights") is None:
        return options
    kind: Any = registry.get("encoders", name)
    tower = kind.__new__(kind)
    nn.Module.__init__(tower)
    tower._asked, tower.config, layer = kind._plan(options)
    tower._last = layer == -1
    settings: dict[str, Any] = tower.settings()
    return settings


def learning_line(recipe: Any, representation: Any) -> str:
    """What ``ecglm validate`` says of the parts that learn, with the number of their weights."""
    elm = without_weights(recipe, representation)
    counts = {part: sum(w.numel() for w in elm.part(part) if w.requires_grad) for part in elm.parts}
    learns = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    still = ", ".join(part for part, count in counts.items() if not count)
    return f"learns: {learns or 'nothing'}" + (f"; frozen: {still}" if still else "")


def memory_lines(
    recipe: Any, conversations: Sequence[Any], representation: Any, ecg_tokens: int, tiles: int = 1
) -> list[str]:
    """What ``ecglm validate`` says of a recipe's memory: of one process, and of each of eight."""
    batch = batch_of(recipe, conversations, representation, ecg_tokens, recipe.train.batch_size, tiles)
    how: Any = {"bf16": recipe.train.bf16, "accumulation": recipe.train.accumulation}
    alone = estimate(without_weights(recipe, representation), batch, **how)
    lines = [f"memory, {batch.rows} rows of about {batch.length} tokens at most: {alone}"]
    step = recipe.train.batch_size * recipe.train.accumulation
    if step % 8 == 0:
        rows, passes = shares(recipe.train.batch_size, recipe.train.accumulation, 8)
        small = batch_of(recipe, conversations, representation, ecg_tokens, rows, tiles)
        found = []
        for name in ("none", "fsdp"):
            elm = without_weights(recipe, representation)
            many = estimate(elm, small, **how | {"accumulation": passes}, processes=8, sharding=name)
            found.append(f"{size_text(many.total)} with train.sharding {name}")
        lines.append(f"each of 8 processes: {', '.join(found)}")
    return lines
