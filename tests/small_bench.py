"""A small ECGBench and small models that answer it: a store, pictures of several sizes, ELMs, image-text models."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ecglm.records.synthetic import Synthetic
from ecglm.representations.render import render
from ecglm.signals.pipeline import get_pipeline
from ecglm.store.prepare import prepare
from ecglm.store.reader import SegmentStore

RATE, SEG_LEN = 50, 250  # those of tiny_world, whose signal model can read this store
NUM_RECORDS = 6
WORDS = ["What is the rhythm of this ECG? Options: A. normal B. atrial fibrillation C. paced. sinus rhythm NORM MI"] * 3


@dataclass(frozen=True, kw_only=True)
class FakePtbXl(Synthetic):
    """Synthetic recordings under the names of PTB-XL."""

    name: ClassVar[str] = "ptb-xl"

    def keys(self) -> list[str]:
        return [f"ptb-xl/{number:05d}" for number in range(1, len(super().keys()) + 1)]

    def read(self, key: str) -> Any:
        number = int(key.split("/")[1])
        record = super().read(super().keys()[number - 1])
        return replace(record, record_id=key, patient_id=f"ptb-xl/p{number}")


def make_store(folder: Path) -> Path:
    source = FakePtbXl(num_patients=NUM_RECORDS, seed=5, records_per_patient=(1, 1))
    prepare(source, get_pipeline("default", rate=RATE, seg_len=SEG_LEN), folder, progress=False)
    return folder


def _item(number: int, image: str, *talk: Any, **fields: Any) -> dict[str, Any]:
    roles = ("human", "gpt") * (len(talk) // 2)
    turns = [{"from": role, "value": text} for role, text in zip(roles, talk, strict=True)]
    return {"id": f"q-{number}", "image": image, "conversations": turns, **fields}


def make_bench(folder: Path, store: Path) -> Path:
    """Five subsets. The pictures of recordings differ in size; ``arena`` and ``mmmu-ecg`` show photographs."""
    segments = SegmentStore(store)
    images = folder / "images"
    images.mkdir(parents=True)
    names = []
    for number in range(1, NUM_RECORDS + 1):
        page = Image.fromarray(render(segments[number - 1], RATE, size=(1000, 680)))
        name = f"ptb-xl/{number:05d}_hr-0.png"
        (images / "ptb-xl").mkdir(exist_ok=True)
        page.resize((90 + 17 * number, 70 + 5 * (number % 3))).save(images / name)
        names.append(name)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (60 + 9 * number, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"photo{number}.jpg")
    ask = "<image>\nWhich classes? NORM, MI, STTC, CD, HYP"
    subsets = {
        "ptb-test": [_item(n, names[n], ask + "?" * n, answer) for n, answer in enumerate(["NORM", "MI", "CD; HYP"])],
        "ecgqa-test": [
            _item(0, names[3], ["What rhythm? Options: sinus, lead V1, none"], ["sinus"]),
            _item(1, names[4], ["Which leads? Options: lead I, lead V1"], ["lead I", "lead V1"]),
        ],
        "ptb-test-report": [_item(n, names[n], "<image>\nWrite a report.", f"report {n}") for n in (0, 5)],
        "mmmu-ecg": [
            {**_item(n, f"photo{n}.jpg", f"<image>\nWhich ({n})? A. flutter B. paced C. normal", "B"), "No": n + 1}
            for n in range(2)
        ],
        "arena": [
            _item(n, f"photo{n}.jpg", f"<image>\nWhat is this ({n})?", "a flutter", "And its cause?", "age", "x", "y")
            for n in range(3)
        ],
    }
    for item in subsets["mmmu-ecg"]:
        del item["id"]
    for name, items in subsets.items():
        (folder / f"{name}.json").write_text(json.dumps(items))
    return folder


def make_llm(folder: Path, seed: int = 0) -> Path:
    """A Llama with random weights and a tokenizer that has Llama's control tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(WORDS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, initializer_range=0.3, **size)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_elm(folder: Path, kind: str = "anyres", chat: str = "llava_v1", seed: int = 0) -> Path:
    """An untrained ELM that reads pictures. kind: ``anyres`` as PULSE's, or ``image``."""
    from ecglm.models.checkpoint import ModelConfig, create, save_pretrained
    from ecglm.representations.anyres import AnyresRepresentation
    from ecglm.representations.image import ImageRepresentation

    model = ModelConfig(
        llm=str(make_llm(folder.parent / "llm", seed)),
        encoder="clip",
        encoder_options={"size": "nano", "config": {"image_size": 32, "patch_size": 16}, "drop_cls": True},
        max_len=512,
        chat_format=chat,
    )
    shown: Any = ImageRepresentation(image_size=(32, 32), num_tokens=4)
    if kind == "anyres":
        shown = AnyresRepresentation(image_size=(32, 32), patches=(2, 2))
    made = create(model, shown, get_pipeline("default", rate=RATE, seg_len=SEG_LEN).config(), WORDS, seed)
    return save_pretrained(made, folder)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}IMAGE"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_vlm(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny image-text model of ``transformers`` with random weights, as it would come from the hub. kind:
    ``llava_next``, ``idefics3``, or ``qwen2_vl``, whose processor also takes videos."""
    import torch
    import transformers as hf

    from ecglm.models.llm import train_tokenizer

    torch.manual_seed(seed)
    tokenizer = train_tokenizer(WORDS, 300)
    text = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    text |= {"initializer_range": 0.3}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

    def mark(*tokens: str) -> list[int]:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *tokens]})
        return tokenizer.convert_tokens_to_ids(list(tokens))

    if kind == "llava_next":
        (image,) = mark("<image>")
        grids = [[28, 56], [56, 28], [56, 56]]
        config: Any = hf.LlavaNextConfig(
            vision_config=hf.CLIPVisionConfig(**vision, image_size=28, patch_size=14),
            text_config=hf.LlamaConfig(**text),
            image_token_index=image,
            image_grid_pinpoints=grids,
            image_seq_length=4,
        )
        model: Any = hf.LlavaNextForConditionalGeneration(config)
        size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
        pictures: Any = hf.LlavaNextImageProcessorPil(**size, image_grid_pinpoints=grids)
        options = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        template = CHATML.replace("IMAGE", "<image>")
        processor: Any = hf.LlavaNextProcessor(pictures, tokenizer, **options, chat_template=template)
    elif kind == "idefics3":
        image, *_ = mark("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
        vision = {**vision, "image_size": 16, "patch_size": 4}
        text_config = hf.LlamaConfig(**text)
        config = hf.Idefics3Config(
            text_config=text_config, vision_config=vision, image_token_id=image, scale_factor=2, pad_token_id=0
        )
        model = hf.Idefics3ForConditionalGeneration(config)
        pictures = hf.Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
        template = CHATML.replace("IMAGE", "<image>")
        processor = hf.Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    else:
        start, end, image, video = mark("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        config = hf.Qwen2VLConfig(
            text_config={**text, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
            vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4},
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
        )
        model = hf.Qwen2VLForConditionalGeneration(config)
        pictures = hf.Qwen2VLImageProcessorPil(patch_size=4, size={"shortest_edge": 64, "longest_edge": 4096})
        template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
        names = classmethod(lambda cls: ["image_processor", "tokenizer"])  # the part for videos needs torchvision
        without = type("Qwen2VLProcessor", (hf.Qwen2VLProcessor,), {"get_attributes": names})
        processor = without(pictures, tokenizer, None, chat_template=template)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
