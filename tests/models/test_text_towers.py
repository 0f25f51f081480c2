"""Text towers: the vectors are transformers' own, padding changes nothing, and bad folders are told in one line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ecglm.errors import ConfigError
from ecglm.models.text_towers import HubText, TinyText, text_tower

TEXTS = ["sinus rhythm", "atrial fibrillation with rapid response", "normal"]
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *sorted({w for t in TEXTS for w in t.split()})]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(model_max_length: int = 512) -> transformers.PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    roles = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=model_max_length, **roles)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Folders of random models: a BERT with its pooler and one without, a DistilBERT, a whole CLIP and SigLIP."""
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(WORDS)}
    positions = {"max_position_embeddings": 40}
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    bert = transformers.BertConfig(**text, **positions)
    clip_text = {**text, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
    made = {
        "bert": transformers.BertModel(bert),
        "bert-mlm": transformers.BertForMaskedLM(bert),
        "distilbert": transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=len(WORDS), dim=32, hidden_dim=64, n_layers=1, n_heads=2)
        ),
        "clip": transformers.CLIPModel(transformers.CLIPConfig(text_config=clip_text, vision_config=vision)),
        "siglip": transformers.SiglipModel(
            transformers.SiglipConfig(text_config={**text, "max_position_embeddings": 10}, vision_config=vision)
        ),
    }
    folders = {}
    for name, model in made.items():
        folders[name] = tmp_path_factory.mktemp("text") / name
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        model.save_pretrained(folders[name])
        tokenizer().save_pretrained(folders[name])
    return folders


def test_the_vector_is_the_models_own_pooled_output(published) -> None:
    tower = text_tower(str(published["bert"]))
    assert tower.dim == 32 and tower.tokenize.max_length == 40
    model = transformers.BertModel.from_pretrained(published["bert"]).eval()
    with torch.no_grad():
        for text, found in zip(TEXTS, tower.embed(TEXTS), strict=True):  # one by one: no padding there
            alone = model(**tokenizer()([text], return_tensors="pt")).pooler_output[0]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert-mlm", "distilbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_without_a_pooler_the_first_token_or_the_mean(name: str, pooling: str, published) -> None:
    tower = text_tower(str(published[name]), pooling=pooling)
    model = transformers.AutoModel.from_pretrained(published[name]).eval()
    with torch.no_grad():
        hidden = [model(**tokenizer()([text], return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
        wanted = torch.stack([h[0] if pooling == "cls" else h.mean(dim=0) for h in hidden])
        torch.testing.assert_close(tower.embed(TEXTS), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="no pooler; choose pooling"):
        text_tower(str(published[name]))


def test_the_text_tower_of_clip_and_of_siglip(published) -> None:
    clip = text_tower(str(published["clip"]))
    assert type(clip.model).__name__ == "CLIPTextModel" and clip.tokenize.max_length == 12
    whole = transformers.CLIPModel.from_pretrained(published["clip"]).eval()
    with torch.no_grad():
        wanted = whole.text_model(**tokenizer()(TEXTS, padding=True, return_tensors="pt")).pooler_output
        torch.testing.assert_close(clip.embed(TEXTS), wanted, rtol=1e-4, atol=1e-5)
    siglip = text_tower(str(published["siglip"]))
    tokens = siglip.tokenize(TEXTS)
    assert tokens.keys() == {"input_ids"} and tokens["input_ids"].shape == (3, 10)  # padded in full, no mask invented
    whole = transformers.SiglipModel.from_pretrained(published["siglip"]).eval()
    with torch.no_grad():
        torch.testing.assert_close(siglip.embed(TEXTS), whole.text_model(**tokens).pooler_output, rtol=1e-4, atol=1e-5)


def test_a_frozen_tower_stands_still_and_another_learns(published) -> None:
    frozen, learning = (text_tower(str(published["bert"]), frozen=f) for f in (True, False))
    assert not frozen.train().training and not any(p.requires_grad for p in frozen.parameters())
    assert learning.train().training and all(p.requires_grad for p in learning.parameters())
    assert frozen.train().model.training is False


def test_long_texts_are_cut_at_the_models_positions(published) -> None:
    tower = HubText(str(published["bert"]), max_length=8)
    assert tower.tokenize(["normal " * 50])["input_ids"].shape == (1, 8)
    assert tower.config() == {"name": str(published["bert"]), "frozen": True, "pooling": "pooler", "max_length": 8}
    with pytest.raises(ConfigError, match="between 2 and 40, found 41"):
        HubText(str(published["bert"]), max_length=41)


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("no/such-model", {}, "cannot be loaded"),
        ("bert", {"pooling": "max"}, "no pooling 'max'"),
        ("bert", {"dimension": 3}, "dimension"),
        ("tiny", {"frozen": True}, "learned nothing yet"),
        ("tiny", {"dim": 10, "num_heads": 3}, "multiple of num_heads"),
        ("tiny", {"max_length": 1}, "max_length must be 2 or more"),
    ],
)
def test_bad_options_are_told_in_one_line(name: str, options: dict, told: str, published) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        text_tower(str(published.get(name, name)), **options)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_padding_pads_with_its_end_on_the_right(published, tmp_path: Path) -> None:
    transformers.BertModel.from_pretrained(published["bert"]).save_pretrained(tmp_path)
    plain = tokenizer()
    plain.pad_token, plain.eos_token, plain.padding_side = None, "[SEP]", "left"
    plain.save_pretrained(tmp_path)
    with torch.no_grad():
        found = text_tower(str(tmp_path), pooling="mean").embed(TEXTS)
        torch.testing.assert_close(found, text_tower(str(published["bert"]), pooling="mean").embed(TEXTS))
    plain.eos_token = None
    plain.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="neither a padding nor an end token"):
        text_tower(str(tmp_path))


def test_pickled_weights_are_refused(published, tmp_path: Path) -> None:
    model = transformers.BertModel.from_pretrained(published["bert"])
    model.config.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        text_tower(str(tmp_path))


def test_words_of_the_tiny_tower_are_the_same_everywhere() -> None:
    tower = text_tower("tiny", vocab_size=1000)
    ids = tower.tokenize(["AF, 72 bpm", "af"])["input_ids"]
    assert ids.tolist() == [[1, 20, 832, 368, 673, 63], [1, 20, 0, 0, 0, 0]]  # 2 + crc32(word) % 998
    again = pickle.loads(pickle.dumps(tower.tokenize))  # as a worker gets it
    assert again(["AF, 72 bpm", "af"])["input_ids"].tolist() == ids.tolist()
    assert tower.tokenize(["a " * 500])["input_ids"].shape == (1, 64)
    assert tower.tokenize([""])["input_ids"].tolist() == [[1]]


def test_the_tiny_tower_is_seeded_learns_and_does_not_see_padding() -> None:
    torch.manual_seed(0)
    first = text_tower("tiny", dim=16).eval()
    torch.manual_seed(0)
    second = text_tower(**first.config()).eval()
    assert isinstance(second, TinyText) and second.dim == 16
    with torch.no_grad():
        assert torch.equal(first.embed(TEXTS), second.embed(TEXTS))
        for text, found in zip(TEXTS, first.embed(TEXTS), strict=True):
            torch.testing.assert_close(found, first.embed([text])[0], rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in first.parameters())
    order = first.embed(["before after", "after before"])
    assert (order[0] - order[1]).abs().max() > 1e-4
