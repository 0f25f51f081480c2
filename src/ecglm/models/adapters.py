"""LoRA: small trained matrices beside frozen ones, and new vocabulary rows that learn while the old ones stay."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from ecglm.errors import ConfigError, EcglmError, nearest
from ecglm.files import read_json, write_json
from ecglm.models.config import LoraConfig as LoraConfig

WEIGHTS, FACTS = "adapter.safetensors", "adapter.json"
_LAYER = re.compile(r"(?:^|\.)\d+\.")


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
        new = functional.linear(hidden, self.rows.to(hidden.dtype), None if bias is None else bias[self.ids])
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
        use_dora=config.dora,
        use_rslora=config.rank_stabilised,
        target_modules=targets,
        fan_in_fan_out=fan_in_fan_out,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(peft_config, llm)
    for _, weight in adapter_weights(llm):  # small steps would be lost in half precision
        weight.data = weight.data.float()
    if config.where == "ecg":
        _add_gate(llm)
    if new_ids and config.train_new_embeddings != "none":
        _add_new_rows(llm, sorted(new_ids), output=config.train_new_embeddings == "input_output")
    freeze_base(llm)


class EcgGate:
    """Lets adapters act at the positions ``at`` alone: bool ``(batch, length)``, set before the LLM reads them.

    What it reads without (a generated token, say) passes as the LLM's own weights have it.
    """

    at: torch.Tensor | None = None

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        at = self.at
        if at is None or at.numel() != output.shape[:-1].numel():
            return torch.zeros_like(output)
        return output * at.reshape(*output.shape[:-1], 1).to(output.dtype)


def _add_gate(llm: Any) -> None:
    llm.ecg_gate = EcgGate()
    for module in llm.modules():
        if hasattr(module, "lora_B"):
            for matrix in module.lora_B.values():
                matrix.register_forward_hook(llm.ecg_gate)


def ecg_gate(llm: Any) -> EcgGate | None:
    """The gate of an LLM whose adapters act at the ECG's positions alone (``model.lora.where: ecg``), else None."""
    gate = getattr(llm, "ecg_gate", None)
    return gate if isinstance(gate, EcgGate) else None


def _add_new_rows(llm: Any, ids: list[int], *, output: bool) -> None:
    embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    where = torch.tensor(ids, device=embedding.weight.device)
    rows = nn.Parameter(embedding.weight.detach()[where].float())
    llm.set_input_embeddings(NewInputRows(embedding, where, rows))
    if head is not None and (tied or output):
        own = rows if tied else nn.Parameter(head.weight.detach()[where].float())
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

    The adapted one is left alone. Weights that the adapters do not touch are shared with it, not copied. Adapters that
    act at the ECG's positions alone cannot be merged: then it is the LLM without them (``save_adapter`` keeps them).
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
            elif ecg_gate(llm) is None:
                weight = _merged(layer, weight)
        state[f"{owner}.{rest}"] = weight
    with torch.device("meta"):
        plain = type(llm)(llm.config)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = llm.generation_config
    return plain


def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """The weight that an adapted layer acts with: W + ΔW, and for DoRA m (W + ΔW) / ‖W + ΔW‖ of each output."""
    name = layer.active_adapters[0]
    whole = weight.float() + layer.get_delta_weight(name).detach().float()
    if name in layer.lora_magnitude_vector:
        inputs, shape = (0, (1, -1)) if layer.fan_in_fan_out else (1, (-1, 1))
        length = layer.lora_magnitude_vector[name].weight.detach().float()
        whole = whole * (length / whole.norm(dim=inputs)).reshape(shape)
    return whole.to(weight.dtype)


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
