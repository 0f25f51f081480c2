"""Vision towers: the pixels and features of transformers' own classes, small models saved as their makers would."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from ecglm.errors import ConfigError
from ecglm.models.checkpoint import ModelConfig, TinyConfig, create, from_pretrained, save_pretrained
from ecglm.models.encoders.base import build_encoder, picture, reads
from ecglm.models.encoders.vision import ClipTower
from ecglm.models.encoders.vision_config import pixel_statistics
from ecglm.representations.image import ImageRepresentation

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
#: Family → vision configuration, full model and its configuration, image processor.
FAMILIES = {
    "vit": ("ViTConfig", "ViTForImageClassification", "ViTImageProcessorPil"),
    "clip": ("CLIPVisionConfig", "CLIPModel", "CLIPImageProcessorPil"),
    "siglip": ("SiglipVisionConfig", "SiglipModel", "SiglipImageProcessorPil"),
    "siglip2": ("Siglip2VisionConfig", "Siglip2Model", "Siglip2ImageProcessorPil"),
}
SIDE, PATCH = 64, 16


def vision_values(family: str) -> dict:
    shape = {"num_patches": (SIDE // PATCH) ** 2} if family == "siglip2" else {"image_size": SIDE}
    return {**SMALL, **shape, "patch_size": PATCH}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Family → folder of a whole random model (text tower or classifier included) with its image processor."""
    torch.manual_seed(0)
    folders = {}
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    for family, (_, model, processor) in FAMILIES.items():
        if family == "vit":
            made = transformers.ViTForImageClassification(transformers.ViTConfig(**vision_values("vit"), num_labels=7))
        else:
            config = getattr(transformers, model.replace("Model", "Config"))
            made = getattr(transformers, model)(config(text_config=text, vision_config=vision_values(family)))
        with torch.no_grad():
            for weight in made.parameters():  # far from how a new model begins
                weight.add_(0.05 * torch.randn_like(weight))
        folders[family] = tmp_path_factory.mktemp("towers") / family
        made.save_pretrained(folders[family])
        getattr(transformers, processor)().save_pretrained(folders[family])
    return folders


def tower(family: str, side: int = SIDE, **options):
    torch.manual_seed(0)
    return build_encoder(family, input_shape=(3, side, side), options=options).eval()


def pictures(number: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (number, 3, side, side), dtype=np.uint8))


@pytest.mark.parametrize("family", ["vit", "clip", "siglip"])
@pytest.mark.parametrize("mean", [None, [0.1, 0.2, 0.3]], ids=["family's", "file's"])
def test_pixels_are_those_of_the_familys_own_image_processor(family: str, mean, published, tmp_path: Path) -> None:
    folder = shutil.copytree(published[family], tmp_path / "model")
    if mean is None:
        (folder / "preprocessor_config.json").unlink()  # published values then
    else:
        file = folder / "preprocessor_config.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps({**values, "image_mean": mean, "image_std": [0.4, 0.5, 0.6]}))
    kind = getattr(transformers, FAMILIES[family][2])
    size = {"size": {"height": SIDE, "width": SIDE}}
    if family == "clip":
        size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = kind(**size) if mean is None else kind.from_pretrained(folder, **size)
    x = pictures()
    images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in x]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    found = tower(family, weights=str(folder)).normalise(x)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5  # 1/255 of a pixel's range would be 0.004


@pytest.mark.parametrize(
    "processor, mean, std",
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, 127.5, 63.75),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 127.5}, 63.75, 31.875),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_rescale": False}, 0.5, 0.25),
        ({"do_normalize": False}, 0.0, 255.0),
    ],
)
def test_every_switch_of_a_processor_is_one_mean_and_one_deviation(processor, mean, std) -> None:
    found = pixel_statistics(processor, ClipTower.family)
    np.testing.assert_allclose(found, [[mean] * 3, [std] * 3], rtol=1e-12)


def test_pixels_and_patches_of_siglip2_are_its_processors(published) -> None:
    processor = transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16)
    x = pictures()
    inputs = processor(images=[Image.fromarray(p.permute(1, 2, 0).numpy()) for p in x], return_tensors="pt")
    model = transformers.Siglip2VisionModel.from_pretrained(published["siglip2"]).eval()
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        found = tower("siglip2", weights=str(published["siglip2"]))(x)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["vit", "clip", "siglip"])
@pytest.mark.parametrize("layer", [None, -1, -2, -3, 1, 3])
def test_features_are_those_of_the_published_model(family: str, layer: int | None, published) -> None:
    name = {"vit": "ViTModel", "clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}[family]
    model = getattr(transformers, name).from_pretrained(published[family]).eval()
    made = tower(family, weights=str(published[family]), layer=layer, drop_cls=False)
    with torch.no_grad():
        whole = model(pixel_values=made.normalise(pictures()), output_hidden_states=True)
        chosen = {"vit": -1, "clip": -2, "siglip": -1}[family] if layer is None else layer
        expected = whole.last_hidden_state if chosen == -1 else whole.hidden_states[chosen]
        found = made(pictures())
        patches = tower(family, weights=str(published[family]), layer=layer)(pictures())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(patches, expected if family == "siglip" else expected[:, 1:], rtol=1e-4, atol=1e-5)
    assert patches.shape == (2, 16, 32) and made.dim == 32
    assert made.num_tokens == found.shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_size_and_tokens_are_known_before_weights_are_made(family: str, published, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((published[family] / "config.json").read_bytes())  # no weights beside it
    assert picture(family, {"weights": str(tmp_path)}) == ((SIDE, SIDE), 16)
    assert reads(family) == "image"
    assert picture("resnet1d", {}) == picture(None, {}) == (None, None)


@pytest.mark.parametrize(
    "family, options, expected",
    [
        ("clip", {"size": "base"}, ((224, 224), 49)),  # CLIP ViT-B/32
        ("clip", {"size": "large", "config": {"image_size": 336, "patch_size": 14}}, ((336, 336), 576)),
        ("vit", {"size": "base", "drop_cls": False}, ((224, 224), 197)),
        ("siglip", {"size": "base", "config": {"image_size": 384}}, ((384, 384), 576)),
        ("siglip2", {"size": "base"}, ((256, 256), 256)),
        ("vit", {"config": {"image_size": [96, 160], "hidden_size": 64, "num_attention_heads": 4}}, ((96, 160), 60)),
    ],
)
def test_the_published_shapes(family, options, expected) -> None:
    assert picture(family, options) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_tower_is_seeded_and_one_picture_does_not_know_another(family: str) -> None:
    side = 256 if family == "siglip2" else 224
    made = tower(family, side, size="nano")
    again = tower(family, side, size="nano")
    x = pictures(3, side)
    with torch.no_grad():
        assert torch.equal(made(x), again(x))
        torch.testing.assert_close(made(x[:1]), made(x)[:1], rtol=1e-4, atol=1e-5)
    assert made.dim == 64


@pytest.mark.parametrize("family", ["clip", "vit"])
def test_the_checkpoint_is_complete_without_the_folder_of_weights(family: str, published, tmp_path: Path) -> None:
    source = shutil.copytree(published[family], tmp_path / "weights")
    options = {"weights": str(source)}
    config = ModelConfig(tiny=TinyConfig(hidden=32, num_layers=1, num_heads=2), encoder=family, encoder_options=options)
    show = ImageRepresentation(image_size=(SIDE, SIDE), num_tokens=16, size=(900, 700))
    first = create(config, show, {"rate": 100}, ["What is the rhythm?"], seed=1)
    first.elm.eval()
    save_pretrained(first, tmp_path / "checkpoint")
    shutil.rmtree(source)
    second = from_pretrained(tmp_path / "checkpoint")
    with torch.no_grad():
        assert torch.equal(first.elm.encoder(pictures()), second.elm.encoder(pictures()))
    assert second.model == first.model and str(source) not in (tmp_path / "checkpoint" / "config.json").read_text()
    save_pretrained(second, tmp_path / "again")
    names = ("config.json", "ecg.safetensors")
    assert all((tmp_path / "again" / n).read_bytes() == (tmp_path / "checkpoint" / n).read_bytes() for n in names)


def refusal(family: str, options: dict, side: int = SIDE) -> str:
    with pytest.raises(ConfigError) as error:
        build_encoder(family, input_shape=(3, side, side), options=options)
    assert "\n" not in str(error.value) and f"'{family}'" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "options, told",
    [
        ({}, "give weights (a folder or hub id), or size (nano, tiny, small, base, large)"),
        ({"size": "huge"}, "no size 'huge'"),
        ({"size": "smal"}, "did you mean 'small'"),
        ({"wieghts": "x"}, "did you mean 'weights'"),
        ({"size": "nano", "config": {"hiden_size": 3}}, "did you mean 'hidden_size'"),
        ({"size": "nano", "config": {"num_attention_heads": 3}}, "no multiple of num_attention_heads"),
        ({"size": "nano", "config": {"num_channels": 1}}, "1 channels"),
        ({"size": "nano", "config": {"image_size": 8}}, "does not fit"),
        ({"size": "nano", "layer": 0}, "layer 0 of a tower of 2 layers; 1 to 2, or -1 to -2 from the end"),
        ({"size": "nano", "layer": 3}, "layer 3 of a tower of 2 layers"),
        ({"size": "nano", "layer": -3}, "layer -3 of a tower of 2 layers"),
        ({"weights": "x", "size": "nano"}, "drop them"),
        ({"weights": "no/such-model-at-all"}, "cannot be loaded"),
        ({"size": "nano"}, "reads pictures of shape (3, 224, 224), not (3, 64, 64)"),
    ],
)
def test_options_that_cannot_work_are_told_in_one_line(options: dict, told: str) -> None:
    assert told in refusal("vit", options)


def test_a_signal_and_a_picture_are_not_mixed_up() -> None:
    with pytest.raises(ConfigError, match="'resnet1d' reads a signal"):
        build_encoder("resnet1d", input_shape=(3, 64, 64), options={})


def test_weights_of_another_family_are_refused(published) -> None:
    assert "holds a model of type 'clip', not vit" in refusal("vit", {"weights": str(published["clip"])})
    assert "holds a model of type 'vit'" in refusal("siglip", {"weights": str(published["vit"])})


def test_pickled_incomplete_and_damaged_weights_are_refused(published, tmp_path: Path) -> None:
    folder = shutil.copytree(published["vit"], tmp_path / "vit")
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if "layers.1" not in k and "layer.1" not in k}, file, {"format": "pt"})
    assert "lacks" in refusal("vit", {"weights": str(folder)})
    file.write_bytes(file.read_bytes()[:1000])
    assert "cannot be loaded" in refusal("vit", {"weights": str(folder)})
    file.unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refusal("vit", {"weights": str(folder)})
    (folder / "config.json").write_text("{")
    assert "cannot be loaded" in refusal("vit", {"weights": str(folder)})
