"""ST-MEM, MTAE and MLAE once more, straight from a state dict with the released names: plain functions, no modules.

Written apart from the package, lead by lead and head by head, for its tests to compare with.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import gelu, layer_norm, linear

State = dict[str, torch.Tensor]
LEADS = 12


def released_shapes(
    kind: str, *, width: int, depth: int, patch: int, num: int, decoder: tuple[int, int] | None
) -> dict:
    """Names and shapes of a released checkpoint; without ``decoder`` (width, depth), of its encoder alone.

    patch: values per patch. num: patches along the masked axis (of one lead, for ST-MEM).
    """
    marks = 2 if kind == "st-mem" else 1
    inner = {"pos_embedding": (1, num + marks, width), **_patch_embedding("", width, patch)}
    if kind == "st-mem":
        inner |= {"sep_embedding": (width,), **{f"lead_embeddings.{i}": (width,) for i in range(LEADS)}}
    else:
        inner |= {"cls_embedding": (width,)}
    for i in range(depth):
        inner |= _block(f"block{i}.", width)
    inner |= {"norm.weight": (width,), "norm.bias": (width,)}
    if decoder is None:
        return inner
    small, blocks = decoder
    outer = {
        **{f"encoder.{k}": v for k, v in inner.items()},
        **_patch_embedding("", width, patch),
        "mask_embedding": (1, 1, small),
        "decoder_pos_embed": (1, num + marks, small),
        "to_decoder_embedding.weight": (small, width),
        "to_decoder_embedding.bias": (small,),
        "decoder_norm.weight": (small,),
        "decoder_norm.bias": (small,),
        "decoder_head.weight": (patch, small),
        "decoder_head.bias": (patch,),
    }
    for i in range(blocks):
        outer |= _block(f"decoder_blocks.{i}.", small)
    return outer


def _patch_embedding(prefix: str, width: int, patch: int) -> dict:
    return {
        f"{prefix}to_patch_embedding.1.weight": (patch,),
        f"{prefix}to_patch_embedding.1.bias": (patch,),
        f"{prefix}to_patch_embedding.2.weight": (width, patch),
        f"{prefix}to_patch_embedding.2.bias": (width,),
        f"{prefix}to_patch_embedding.3.weight": (width,),
        f"{prefix}to_patch_embedding.3.bias": (width,),
    }


def _block(prefix: str, width: int) -> dict:
    heads = width // 64
    return {
        f"{prefix}attn.norm.weight": (width,),
        f"{prefix}attn.norm.bias": (width,),
        f"{prefix}attn.fn.to_qkv.weight": (3 * heads * 64, width),
        f"{prefix}attn.fn.to_qkv.bias": (3 * heads * 64,),
        f"{prefix}attn.fn.to_out.0.weight": (width, heads * 64),
        f"{prefix}attn.fn.to_out.0.bias": (width,),
        f"{prefix}ff.norm.weight": (width,),
        f"{prefix}ff.norm.bias": (width,),
        f"{prefix}ff.fn.net.0.weight": (4 * width, width),
        f"{prefix}ff.fn.net.0.bias": (4 * width,),
        f"{prefix}ff.fn.net.3.weight": (width, 4 * width),
        f"{prefix}ff.fn.net.3.bias": (width,),
    }


def random_state(shapes: dict, seed: int = 0, scale: float = 0.3) -> State:
    """Values that make every tensor count: none is zero, one, or like another. The shared embedding stands twice."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        fan = shape[-1] if len(shape) == 2 else 1
        state[name] = value * scale / math.sqrt(fan) * (3 if len(shape) == 2 else 1)
        if "norm.weight" in name or name.endswith(("embedding.1.weight", "embedding.3.weight")):
            state[name] = 1 + value * scale
    for name in shapes:
        if name.startswith("to_patch_embedding.") and f"encoder.{name}" in state:
            state[name] = state[f"encoder.{name}"]
    return state


def patches_of(kind: str, x: torch.Tensor, patch: int) -> list[list[torch.Tensor]]:
    """One ECG ``(12, samples)`` → groups of patches, each a vector."""
    if kind == "mlae":
        return [[x[lead] for lead in range(LEADS)]]
    starts = range(0, x.shape[1], patch)
    if kind == "st-mem":
        return [[x[lead, s : s + patch] for s in starts] for lead in range(LEADS)]
    return [[torch.cat([x[:, t] for t in range(s, s + patch)]) for s in starts]]


def tokens_of(
    kind: str, state: State, x: torch.Tensor, patch: int, shown: list[list[int]] | None = None
) -> list[torch.Tensor]:
    """Tokens of one ECG before the final norm, with marks, a tensor ``(marks + shown, width)`` per group."""
    groups = patches_of(kind, x, patch)
    position = state["pos_embedding"][0]
    rows = []
    for lead, patches in enumerate(groups):
        chosen = range(len(patches)) if shown is None else shown[lead]
        embedded = []
        for i in chosen:
            value = _norm(state, "to_patch_embedding.1", patches[i])
            value = linear(value, state["to_patch_embedding.2.weight"], state["to_patch_embedding.2.bias"])
            embedded.append(_norm(state, "to_patch_embedding.3", value) + position[1 + i])
        if kind == "st-mem":
            ends = [state["sep_embedding"] + position[0], state["sep_embedding"] + position[-1]]
            group = torch.stack([ends[0], *embedded, ends[1]]) + state[f"lead_embeddings.{lead}"]
        else:
            group = torch.stack([state["cls_embedding"] + position[0], *embedded])
        rows.append(group)
    lengths = [len(r) for r in rows]
    out = torch.cat(rows)
    for i in range(sum(k.endswith("attn.norm.weight") and k.startswith("block") for k in state)):
        out = _transform(state, f"block{i}", out)
    return list(out.split(lengths))


def features(kind: str, state: State, x: torch.Tensor, patch: int) -> torch.Tensor:
    """One ECG → ``(tokens, width)``, normed, without marks; ``state`` of the encoder alone."""
    return torch.cat([_norm(state, "norm", t) for t in _unmarked(kind, tokens_of(kind, state, x, patch))])


def pooled(kind: str, state: State, x: torch.Tensor, patch: int) -> torch.Tensor:
    """One ECG → ``(width,)``: the norm of the mean of tokens that are not normed."""
    return _norm(state, "norm", torch.cat(_unmarked(kind, tokens_of(kind, state, x, patch))).mean(0))


def masked_loss(
    kind: str, state: State, x: torch.Tensor, patch: int, shown: list[list[int]], norm_target: bool = False
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss of one ECG with given shown patches, and the predictions ``(patches, values)`` of each group."""
    own = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    groups, errors, predictions = patches_of(kind, x, patch), [], []
    for lead, tokens in enumerate(tokens_of(kind, own, x, patch, shown)):
        latent = _norm(own, "norm", tokens)
        latent = linear(latent, state["to_decoder_embedding.weight"], state["to_decoder_embedding.bias"])
        line = [latent[0]]
        for i in range(len(groups[lead])):
            at = shown[lead].index(i) + 1 if i in shown[lead] else None
            line.append(state["mask_embedding"][0, 0] if at is None else latent[at])
        if kind == "st-mem":
            line.append(latent[-1])
        out = torch.stack(line) + state["decoder_pos_embed"][0]
        for i in range(sum(k.endswith("attn.norm.weight") and k.startswith("decoder_blocks") for k in state)):
            out = _transform(state, f"decoder_blocks.{i}", out)
        out = _norm(state, "decoder_norm", out, 1e-6)
        out = linear(out, state["decoder_head.weight"], state["decoder_head.bias"])[1 : 1 + len(groups[lead])]
        predictions.append(out)
        for i, target in enumerate(groups[lead]):
            if i not in shown[lead]:
                if norm_target:
                    target = (target - target.mean()) / torch.sqrt(target.var(unbiased=True) + 1e-6)
                errors.append(((out[i] - target) ** 2).mean())
    return torch.stack(errors).mean(), predictions


def _unmarked(kind: str, groups: list[torch.Tensor]) -> list[torch.Tensor]:
    return [g[1:-1] if kind == "st-mem" else g[1:] for g in groups]


def _norm(state: State, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _transform(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """A pre-norm block, head by head, with the softmax written out."""
    y = _norm(state, f"{name}.attn.norm", x)
    joint = linear(y, state[f"{name}.attn.fn.to_qkv.weight"], state[f"{name}.attn.fn.to_qkv.bias"])
    inner = joint.shape[-1] // 3
    heads = []
    for h in range(inner // 64):
        q, k, v = (joint[:, part * inner + h * 64 : part * inner + (h + 1) * 64] for part in range(3))
        heads.append(torch.softmax(q @ k.T / 8.0, dim=-1) @ v)
    x = x + linear(
        torch.cat(heads, 1), state[f"{name}.attn.fn.to_out.0.weight"], state[f"{name}.attn.fn.to_out.0.bias"]
    )
    y = _norm(state, f"{name}.ff.norm", x)
    y = gelu(linear(y, state[f"{name}.ff.fn.net.0.weight"], state[f"{name}.ff.fn.net.0.bias"]))
    return x + linear(y, state[f"{name}.ff.fn.net.3.weight"], state[f"{name}.ff.fn.net.3.bias"])
