"""Pictures of several tiles in one model: any mixture of sizes in padded, packed and shared sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ecglm.errors import ConfigError
from ecglm.models.checkpoint import Bundle, create
from ecglm.models.config import ModelConfig, TinyConfig
from ecglm.models.connector import TileConnector
from ecglm.models.packed_attention import prepare_packing
from ecglm.prompts.collate import collate, collate_packed
from ecglm.prompts.examples import share_prefix
from ecglm.representations.anyres import MERGES, AnyresRepresentation
from ecglm.training.fsdp import always_encode
from ecglm.training.objectives.sft import answer_loss
from ecglm.types import ECG_MARK, Turn

SIZES = [(220, 170), (100, 30), (25, 90), (61, 47)]


def made(merge: str, **changes: Any) -> Bundle:
    values: dict[str, Any] = {
        "tiny": TinyConfig(hidden=32, num_layers=2, num_heads=2, vocab_size=300),
        "encoder": "clip",
        "encoder_options": {"size": "nano", "config": {"image_size": 28, "patch_size": 14}},
    }
    shown = AnyresRepresentation(image_size=(28, 28), patches=(2, 2), size=(220, 170), merge=merge)
    return create(ModelConfig(**values | changes), shown, {"rate": 100}, ["What is the rhythm? sinus"], 0)


@pytest.fixture(scope="module", params=MERGES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    found = made(request.param)
    found.elm.eval()
    return found


def example(bundle: Bundle, *numbers: int, question: str = "rhythm?", answer: str = "sinus rhythm") -> Any:
    show = bundle.representation.of_picture
    pages = [np.random.default_rng(n).integers(0, 256, (*SIZES[n][::-1], 3), dtype=np.uint8) for n in numbers]
    turns = [Turn("user", f"{ECG_MARK * len(pages)}{question}"), Turn("assistant", answer)]
    return bundle.prompter.build("x", turns, [show(page) for page in pages])


def loss(bundle: Bundle, batch: dict[str, Any]) -> float:
    with torch.no_grad():
        return float(answer_loss(bundle.elm, batch)[0])


def test_p22_mixed_sizes_and_text_alone_collate_and_sum(bundle: Bundle) -> None:
    many = [example(bundle, 0), example(bundle, 1, 2), example(bundle), example(bundle, 3, answer="a")]
    batch = collate(many, pad_id=0)
    assert batch["ecg"].shape[0] == sum(1 + int(t[0] * t[1]) for e in many if e.tiles is not None for t in e.tiles)
    assert batch["tiles"].shape == (4, 4) and batch["tiles"].dtype == torch.int64
    apart = sum(loss(bundle, collate([one], pad_id=0)) for one in many)
    assert loss(bundle, batch) == pytest.approx(apart, abs=1e-4)
    text = collate([example(bundle)], pad_id=0)
    assert "ecg" not in text and "tiles" not in text


def test_packed_rows_are_as_padded_ones(bundle: Bundle) -> None:
    many = [example(bundle, 0), example(bundle, 2, 1), example(bundle), example(bundle, 3)]
    padded = loss(bundle, collate(many, pad_id=0))
    assert prepare_packing(bundle.elm.llm)
    assert loss(bundle, collate_packed([many])) == pytest.approx(padded, abs=1e-4)


def test_questions_that_share_a_picture_are_as_apart(bundle: Bundle) -> None:
    asked = [example(bundle, 0, question=q, answer=a) for q, a in (("rate?", "72"), ("rhythm?", "sinus"))]
    shared = share_prefix("x", asked, bundle.prompter.ecg_ids)
    assert shared.tiles is not None and len(shared.tiles) == 1 and len(shared.ecg) == 5
    apart = sum(loss(bundle, collate([one], pad_id=0)) for one in asked)
    assert loss(bundle, collate([shared], pad_id=0)) == pytest.approx(apart, abs=1e-4)


def test_tiles_that_do_not_fit_the_placeholders_are_an_error(bundle: Bundle) -> None:
    batch = collate([example(bundle, 0), example(bundle, 1)], pad_id=0)
    for change in (
        {"tiles": batch["tiles"][:1]},
        {"tiles": batch["tiles"].flip(0)},
        {"ecg": None},
        {"ecg": batch["ecg"][:-1]},
    ):
        with pytest.raises(ValueError, match=r"placeholders|tiles"):
            bundle.elm.embed(batch["input_ids"], **{"ecg": batch["ecg"], "tiles": batch["tiles"], **change})


def test_the_newline_and_the_projector_learn() -> None:
    bundle = made("spatial_unpad")
    bundle.elm.set_trainable(["connector", "llm"])
    answer_loss(bundle.elm, collate([example(bundle, 0)], pad_id=0))[0].backward()
    connector = bundle.elm.connector
    assert isinstance(connector, TileConnector) and connector.image_newline is not None
    assert float(connector.image_newline.grad.abs().sum()) > 0
    assert all(p.grad is not None for p in connector.parameters())
    assert all(p.grad is None for p in bundle.elm.encoder.parameters())


def test_a_blank_tile_keeps_all_weights_in_a_sharded_step() -> None:
    """A process whose batch shows no picture takes part with a tile at no weight: the newline vector too."""
    bundle = made("spatial_unpad")
    text = collate([example(bundle)], pad_id=0)
    plain = bundle.elm.embed(text["input_ids"])
    always_encode(bundle.elm, torch.zeros(1, 3, 28, 28, dtype=torch.uint8), None)
    embedded = bundle.elm.embed(text["input_ids"])
    assert torch.equal(embedded, plain)
    embedded.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in bundle.elm.connector.parameters())
    shown = collate([example(bundle, 0)], pad_id=0)
    assert bundle.elm.embed(shown["input_ids"], shown["ecg"], tiles=shown["tiles"]).shape[1] > 20


def test_what_tiles_cannot_be_joined_with() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        made("flat", ecg_attention="bidirectional")
    with pytest.raises(ConfigError, match="resampler"):
        made("flat", connector="resampler")
