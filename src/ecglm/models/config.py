"""A recipe's ``model`` section: which language model, which encoder, how the two are joined. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: ``model.encoder`` where a recipe names none.
AUTO = "auto"
#: The encoder of ``auto``, where no folder of a pretrained one says otherwise.
USUAL_ENCODER = "resnet1d"


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """The small from-scratch language model of ``llm: tiny``."""

    hidden: int = 128
    num_layers: int = 4
    num_heads: int = 4
    vocab_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("hidden", "num_layers", "num_heads", "vocab_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.tiny.{name} must be 1 or more, found {getattr(self, name)}")
        if self.hidden % self.num_heads:
            raise ValueError(
                f"model.tiny.hidden must be a multiple of num_heads ({self.num_heads}), found {self.hidden}"
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapt a pretrained LLM by LoRA (arXiv 2106.09685): its own weights stand still, ``alpha / rank`` × B A is added.

    targets: linear layers by the end of their name (q_proj, v_proj, …); none: all inside the transformer's layers.
    train_new_embeddings: which rows of the ECG's new tokens learn: ``none``, ``input``, or ``input_output``. Where the
    model's output shares the input's table (tied), a row is one and the same in both, and learns from both.
    where: ``all`` positions, or ``ecg``, those of an encoder's tokens alone, so that text is read as the LLM always did
    (the manner of Vision as LoRA, arXiv 2503.20680). dora: learn the length of each output's weights apart from their
    direction (DoRA, arXiv 2402.09353). rank_stabilised: scale by ``alpha / √rank`` (arXiv 2312.03732).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ()
    train_new_embeddings: Literal["none", "input", "input_output"] = "input"
    where: Literal["all", "ecg"] = "all"
    dora: bool = False
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"model.lora.rank must be 1 or more, found {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"model.lora.alpha must be above 0, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora.dropout must be at least 0 and below 1, found {self.dropout}")
        if self.dora and self.where == "ecg":
            raise ValueError("model.lora.dora changes whole weights, which where: ecg keeps for the text; drop one")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """A second encoder, which reads the ECG as a picture beside the one that reads its signal (arXiv 2503.06073).

    encoder, encoder_options, encoder_from: as those of ``model``. connector: of the picture's tokens. shared: the
    signal's tokens go through one linear layer to the picture's width, then through the picture's connector, as in GEM;
    otherwise ``model.connector`` is theirs. modality_dropout: in training, the share of ECGs that are shown without
    their signal or without their picture (one or the other at even odds), seeded per row and epoch.
    """

    encoder: str = AUTO
    encoder_options: dict[str, Any] = field(default_factory=dict)
    encoder_from: str | None = None
    connector: str = "mlp2x_gelu"
    shared: bool = False
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"model.image.modality_dropout must lie between 0 and 1, found {self.modality_dropout}")
        if self.encoder == AUTO and self.encoder_from is None:
            raise ValueError("model.image needs an encoder (clip, siglip, vit, …) or encoder_from")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A recipe's ``model`` section. llm: ``tiny``, a hub id or a folder. encoder: what reads the tensor of the
    representation; empty for none, ``auto`` for the one in ``encoder_from``, or ``resnet1d``. encoder_from: folder or
    hub id of a pretrained encoder (``ecglm pretrain``, ``ecglm import``), whose weights it begins with. start_from:
    folder of a whole checkpoint (``best/`` of a run, or ``ecglm import pulse``): LLM, encoder, connector and chat
    format are its own, and what the recipe leaves out is as it was there. lora: adapt a
    pretrained LLM instead of training all of it. image: a second encoder, for the picture beside the signal.
    ecg_attention: among the tokens of one ECG, ``causal`` as in text, or ``bidirectional``.
    init_new_embeddings: how the rows of the ECG's tokens begin, ``mean`` of the LLM's own or ``random``.
    chat_format: how a talk is written; ``auto`` is the way of the LLM's own chat template, ``plain`` lines without one.
    system: text that stands before every talk; system_file: a text file that holds it. dtype: of the LLM's weights.
    attention: its implementation; ``auto`` takes the fastest that the machine and the LLM have.
    """

    llm: str = "tiny"
    tiny: TinyConfig = field(default_factory=TinyConfig)
    encoder: str | None = AUTO
    encoder_options: dict[str, Any] = field(default_factory=dict)
    encoder_from: str | None = None
    start_from: str | None = None
    connector: str = "mlp2x_gelu"
    image: ImageConfig | None = None
    ecg_attention: Literal["causal", "bidirectional"] = "causal"
    chat_format: str = "auto"
    system: str = ""
    system_file: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    max_len: int = 1024
    init_new_embeddings: Literal["mean", "random"] = "mean"
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.start_from is not None and self.encoder_from is not None:
            raise ValueError("model.start_from holds an encoder, and model.encoder_from names another; drop one")
        if self.lora is not None and self.llm == "tiny" and self.start_from is None:
            raise ValueError("model.lora adapts a pretrained LLM, and tiny has learned nothing yet; drop model.lora")
        if self.dtype != "float32" and self.llm == "tiny" and self.start_from is None:
            raise ValueError("model.dtype: tiny learns from nothing, which needs float32; drop model.dtype")
        if self.system and self.system_file is not None:
            raise ValueError("model.system and model.system_file both give the system prompt; drop one")
        if self.encoder is None and self.encoder_from is not None:
            raise ValueError("model.encoder_from names a pretrained encoder, but model.encoder is empty; drop one")
