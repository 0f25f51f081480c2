"""LoRA: small trained matrices beside frozen ones, and new vocabulary rows that learn while the old ones stay."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.files import read_json, write_json

WEIGHTS, FACTS = "adapter.safetensors", "adapter.json"
_LAYER = re.compile(r"(?:^|\.)\d+\.")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapt a pretrained LLM by LoRA (arXiv 2106.09685): its own weights stand still, ``alpha / rank`` × B A is added.

    targets: linear layers by the end of their name (q_proj, v_proj, …); none: all inside the transformer's layers.
    train_new_embeddings: which rows of the ECG's new tokens learn: ``none``, ``input``, or ``input_output``. Where the
    model's output shares the input's table (tied), a row is one and the same in both, and learns from both.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ()
    train_new_embeddings: Literal["none", "input", "input_output"] = "input"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"model.lora.rank must be 1 or more, found {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"model.lora.alpha must be above 0, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout must be at least 0 and below 1, found {self.dropout}")


class NewRows(nn.Module):
    """An embedding or output layer of which only the rows ``ids`` learn; ``base_layer`` holds the others, frozen."""

    ids: torch.Tensor

    def __init__(self, base_layer: Any, ids: torch.Tensor, rows: nn.Parameter) -> None:
        super().__init__()
        self.base_layer, self.rows = base_layer, rows
        self.register_buffer("ids", ids, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The whole table as it stands, detached: ``(vocabulary, width)``."""
        whole = self.base_layer.weight.detach().clone()
        whole[self.ids] = self.rows.detach().to(whole.dtype)
        return whole


class NewInputRows(NewRows):
    """``(…)`` ids → ``(…, width)``."""

    place: torch.Tensor

    def __init__(self, base_layer: Any, ids: torch.Tensor, rows: nn.Parameter) -> None:
        super().__init__(base_layer, ids, rows)
        place = torch.full((base_layer.weight.shape[0],), -1, device=ids.device)
        place[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("place", place, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded = self.base_layer(input_ids)
        place = self.place[input_ids]
        new = functional.embedding(place.clamp(min=0), self.rows)
        scale = getattr(self.base_layer, "embed_scale", None)  # Gemma 3 scales inside its embedding
        if scale is not None:
            new = new * torch.as_tensor(scale, dtype=new.dtype, device=new.device)
        return torch.where((place >= 0)[..., None], new.to(embedded.dtype), embedded)


class NewOutputRows(NewRows):
    """``(…, width)`` → logits ``(…, vocabulary)``."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.base_layer(hidden)
        bias = getattr(self.base_layer, "bias", None)
        new = functional.linear(hidden, self.rows, None if bias is None else bias[self.ids])
        return logits.index_copy(-1, self.ids, new.to(logits.dtype))


def add_lora(llm: Any, config: LoraConfig, new_ids: Sequence[int], seed: int) -> None:
    """Put adapters into ``llm``, which then gives what it gave before; nothing but them can learn from now on.

    new_ids: the tokens whose rows ``train_new_embeddings`` is about. Raises ConfigError for a target it does not have.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    targets = lora_targets(llm, config.targets)
    fan_in_fan_out = any(type(llm.get_submodule(t)).__name__ == "Conv1D" for t in targets)
    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=targets,
        fan_in_fan_out=fan_in_fan_out,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(peft_config, llm)
    if new_ids and config.train_new_embeddings != "none":
        _add_new_rows(llm, sorted(new_ids), output=config.train_new_embeddings == "input_output")
    freeze_base(llm)


def _add_new_rows(llm: Any, ids: list[int], *, output: bool) -> None:
    embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    where = torch.tensor(ids, device=embedding.weight.device)
    rows = nn.Parameter(embedding.weight.detach()[where].clone())
    llm.set_input_embeddings(NewInputRows(embedding, where, rows))
    if head is not None and (tied or output):
        own = rows if tied else nn.Parameter(head.weight.detach()[where].clone())
        llm.set_output_embeddings(NewOutputRows(head, where, own))


def lora_targets(llm: Any, names: Sequence[str] = ()) -> list[str]:
    """Full names of the linear layers to adapt: those inside the transformer's layers that end in one of ``names``.

    Without names all of them, which is q, k, v, o, gate, up, down for Llama, Qwen and Gemma, and c_attn, c_proj, c_fc
    for GPT-2. Raises ConfigError for a name that no such layer has.
    """
    linear = [
        name
        for name, module in llm.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and _LAYER.search(name)
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    for wanted in names:
        if wanted not in known:
            raise ConfigError(
                f"model.lora.targets: no layer '{wanted}'{nearest(wanted, known)}; this LLM has {', '.join(known)}"
            )
    if not linear:
        raise ConfigError("model.lora: this LLM has no linear layers to adapt; drop model.lora")
    return [name for name in linear if not names or name.rpartition(".")[2] in names]


def is_adapted(llm: nn.Module) -> bool:
    """Whether ``add_lora`` has been here."""
    return any(hasattr(module, "lora_A") for module in llm.modules())


def freeze_base(llm: nn.Module) -> None:
    """Let the adapters and new rows of an adapted LLM learn, and nothing else."""
    llm.requires_grad_(False)
    for _, weight in adapter_weights(llm):
        weight.requires_grad_(True)


def adapter_weights(llm: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and weight of all that an adapted LLM learns; shared rows stand once."""
    for name, weight in llm.named_parameters():
        if ".lora_" in name or name.endswith(".rows"):
            yield name, weight


def plain_llm(llm: Any) -> Any:
    """An adapted LLM as an ordinary one of its class, adapters merged in, for saving; any other LLM as it is.

    The adapted one is left alone. Weights that the adapters do not touch are shared with it, not copied.
    """
    if not is_adapted(llm):
        return llm
    modules = dict(llm.named_modules())
    state: dict[str, torch.Tensor] = {}
    for name, weight in llm.state_dict().items():
        owner, mark, rest = name.rpartition(".base_layer.")
        if not mark:
            if ".lora_" not in name and not name.endswith(".rows"):
                state[name] = weight
            continue
        layer: Any = modules[owner]
        if rest == "weight":
            if isinstance(layer, NewRows):
                weight = layer.weight
            else:
                delta = layer.get_delta_weight(layer.active_adapters[0])
                weight = weight + delta.detach().to(weight.dtype)
        state[f"{owner}.{rest}"] = weight
    with torch.device("meta"):
        plain = type(llm)(llm.config)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = llm.generation_config
    return plain


def save_adapter(llm: nn.Module, folder: Path) -> None:
    """Write what the adapters learned, apart from the LLM: ``adapter.safetensors``, and which LLM they belong to."""
    save_file({name: w.detach().cpu().contiguous() for name, w in adapter_weights(llm)}, folder / WEIGHTS)
    write_json(folder / FACTS, {"base": base_fingerprint(llm)})


def load_adapter(llm: nn.Module, folder: Path) -> None:
    """Read back what ``save_adapter`` wrote; EcglmError when the LLM underneath is not the one it was made for."""
    if read_json(folder / FACTS)["base"] != base_fingerprint(llm):
        raise EcglmError(f"{folder}: the LLM has changed since this was saved; train again with --overwrite")
    found, wanted = load_file(folder / WEIGHTS), dict(adapter_weights(llm))
    if {n: w.shape for n, w in found.items()} != {n: w.shape for n, w in wanted.items()}:
        raise EcglmError(f"{folder / WEIGHTS}: not the weights of this adapter; train again with --overwrite")
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(found[name])


def base_fingerprint(llm: nn.Module, num_values: int = 1024) -> str:
    """sha256 of the frozen weights' names, shapes and up to ``num_values`` values of each, spread evenly."""
    learned = {name for name, _ in adapter_weights(llm)}
    digest = hashlib.sha256()
    for name, weight in llm.named_parameters():
        if name not in learned:
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            flat = weight.detach().reshape(-1)
            digest.update(flat[:: max(flat.numel() // num_values, 1)].float().cpu().numpy().tobytes())
    return digest.hexdigest()
