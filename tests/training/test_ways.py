"""The ways of training as settings of one model: what learns, what an encoder's folder decides, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ecglm import config as strict
from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.predict import predict
from ecglm.files import read_jsonl, read_manifest
from ecglm.models.checkpoint import Bundle, create, from_pretrained, save_pretrained
from ecglm.models.config import ImageConfig, LoraConfig
from ecglm.models.encoder_files import load_encoder, read_encoder, save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.models.generate import generate
from ecglm.prompts.collate import collate
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.people import people
from ecglm.representations.base import build_representation
from ecglm.representations.dual import Dual
from ecglm.representations.image import ImageOptions
from ecglm.store.reader import SegmentStore
from ecglm.training.pretrain_recipe import PretrainRecipe
from ecglm.training.recipe import Recipe
from ecglm.training.run import representation_of, train
from ecglm.types import LEADS
from tiny_world import ENCODER, RATE, SEG_LEN, World, tree

VIT = {"size": "nano", "config": {"image_size": 64, "patch_size": 16}}
DUAL = ImageConfig(encoder="vit", encoder_options=VIT)


def quiet(text: str) -> None:
    pass


def with_model(recipe: Recipe, **changes: object) -> Recipe:
    return replace(recipe, model=replace(recipe.model, **changes))


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    """A pretrained encoder: the tiny ResNet with weights no seed would make, learned from two patients."""
    return make_folder(world, tmp_path / "encoder")


def make_folder(world: World, folder: Path, name: str = "resnet1d", options: dict | None = None, **facts) -> Path:
    options = ENCODER if options is None else options
    torch.manual_seed(99)
    encoder = build_encoder(name, input_shape=(12, SEG_LEN), options=options)
    recipe = world.recipe()
    store = SegmentStore(world.store)
    representation = representation_of(recipe, [store], [])
    given = {
        "pipeline": store.manifest["settings"]["pipeline"],
        "representation": representation.config(),
        "trained_on": people(world.conversations("train")[:2]),
        "input_shape": (12, SEG_LEN),
        **facts,
    }
    return save_encoder(folder, encoder, name=name, options=options, **given)


RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted((RECIPES / "gem").glob("pretrain*.yaml")), ids=lambda p: p.stem)
def test_a_towers_recipe_is_read(path: Path) -> None:
    assert strict.load(path, PretrainRecipe).name == f"gem-{path.stem}"


def test_gem_has_the_papers_shape() -> None:
    """Spec 9: 100 patches of 50 samples at 500 Hz, width 768; CLIP ViT-L/14 at 336; shared projector; one epoch."""
    recipe = strict.load(RECIPES / "gem" / "paper.yaml", Recipe)
    tower = strict.load(RECIPES / "gem" / "pretrain-tower.yaml", PretrainRecipe).encoder
    with torch.device("meta"):
        encoder = build_encoder(tower.name, input_shape=(12, 5000), options=tower.options)
    assert (encoder.num_tokens, encoder.dim) == (100, 768) and recipe.signal.num_tokens == 100
    assert recipe.model.image.encoder_options == {"weights": "openai/clip-vit-large-patch14-336"}
    assert recipe.model.image.shared and recipe.train.parts == ("connector", "llm")
    train_ = recipe.train
    assert (train_.lr, train_.max_epochs, train_.batch_size * train_.accumulation) == (2e-5, 1, 256)  # over all GPUs
    assert recipe.shown == "signal + image"


# --- encoder_from


def test_d07_scratch_the_encoder_of_a_folder_stays_as_it_is(world, folder: Path, tmp_path: Path) -> None:
    """2-stage scratch: weights of the folder, bit for bit, after training; what is pretrained on is remembered."""
    recipe = with_model(world.recipe(parts=("connector", "llm")), encoder_from=str(folder), encoder_options={})
    said: list[str] = []
    run = train(recipe, tmp_path / "run", say=said.append)
    wanted = read_encoder(folder).weights()
    shutil.rmtree(folder)  # the checkpoint needs it no more
    bundle = from_pretrained(run.best)
    found = bundle.elm.encoder.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert (bundle.model.encoder, bundle.model.encoder_from) == ("resnet1d", None)
    assert bundle.model.encoder_options == ENCODER
    assert any(line.startswith("frozen: encoder") for line in said)
    learning = read_manifest(run.path, "training-run")["learning"]
    assert (learning["train"], learning["frozen"], learning["lora"]) == (
        ["connector", "llm", "embeddings"],
        ["encoder"],
        [],
    )
    train_rows = world.conversations("train")
    assert set(bundle.trained_on) == set(people(train_rows))


def test_d07_end_to_end_the_encoder_of_a_folder_learns(world, folder: Path, tmp_path: Path) -> None:
    run = train(with_model(world.recipe(), encoder_from=str(folder)), tmp_path / "run", say=quiet)
    before, after = read_encoder(folder).weights(), from_pretrained(run.best).elm.encoder.state_dict()
    assert not any(torch.equal(after[k], v) for k, v in before.items() if "norm" not in k)


def test_whom_an_encoder_learned_from_is_never_a_test_patient(world, tmp_path: Path) -> None:
    """The folder's hashes join those of the run: predict refuses its own test split, and training warned of it."""
    test = world.conversations("test")
    folder = make_folder(world, tmp_path / "encoder", trained_on=people(test[:1]))
    said: list[str] = []
    run = train(
        with_model(world.recipe(max_steps=2, eval_every=2), encoder_from=str(folder)), tmp_path / "r", say=said.append
    )
    about = sum(set(c.patients) & set(test[0].patients) != set() for c in test)
    assert any(line.startswith(f"warning: {about} of {len(test)} test questions") for line in said)
    with pytest.raises(EcglmError, match="patients this model was trained on"):
        predict(run.best, world.data, [str(world.store)], tmp_path / "p", say=quiet)
    # and a checkpoint hands them on
    save_pretrained(from_pretrained(run.best), tmp_path / "again")
    assert set(from_pretrained(tmp_path / "again").trained_on) >= set(people(test[:1]))


def test_a_folder_counts_by_what_it_holds(world, folder: Path, tmp_path: Path) -> None:
    recipe = world.recipe(max_steps=2, eval_every=2)
    first = train(with_model(recipe, encoder_from=str(folder)), tmp_path / "run", say=quiet)
    moved = folder.rename(tmp_path / "elsewhere")
    assert train(with_model(recipe, encoder_from=str(moved)), tmp_path / "run", say=quiet).reused
    assert str(tmp_path) not in "".join(p.read_text() for p in (first.path / "best").rglob("*.json"))
    other = train(with_model(recipe, encoder_from=str(moved)), tmp_path / "other", say=quiet)
    assert tree(first.path / "best") == tree(other.path / "best")


REFUSALS = [
    ({"encoder": "st_mem", "encoder_options": {}}, r"model\.encoder is 'st_mem', but .* holds a 'resnet1d'; leave"),
    ({"encoder_options": {"widths": [16, 32]}}, r"not the weights of this encoder: .* it reads 12 x 250 with .*widths"),
    ({"encoder_from": "nowhere/to/be"}, r"model\.encoder_from: .*no such encoder folder"),
]


@pytest.mark.parametrize(("changes", "told"), REFUSALS)
def test_a_recipe_that_does_not_fit_its_folder(world, folder: Path, tmp_path: Path, changes, told: str) -> None:
    recipe = with_model(world.recipe(), **{"encoder_from": str(folder), **changes})
    refused(recipe, tmp_path, told)


def refused(recipe: Recipe, tmp_path: Path, told: str) -> None:
    """By training, in one line, before anything is written or read."""
    with pytest.raises(EcglmError, match=told) as error:
        train(recipe, tmp_path / "run", say=quiet)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rate": 25}, r"learned at 50 Hz, but this run shows 25 Hz; prepare"),
        ({"normalise": "instance"}, r"learned with signal\.normalise none, but this run has instance; set"),
        ({"leads": ("I", "II")}, r"learned with signal\.leads I II III .*, but this run has I II; set"),
        ({"leads": ("II", "I", *LEADS[2:])}, r"learned with signal\.leads I II"),
    ],
)
def test_an_ecg_shown_otherwise_than_in_pretraining(world, folder: Path, tmp_path: Path, options, told: str) -> None:
    recipe = with_model(world.recipe(), encoder_from=str(folder))
    refused(replace(recipe, signal=replace(recipe.signal, **options)), tmp_path, told)


def test_an_ecg_of_another_length_than_in_pretraining(world, tmp_path: Path) -> None:
    """Where the encoder cannot make its weights fit; convolutions and fixed positions can."""
    folder = make_folder(world, tmp_path / "encoder", "conv", {}, input_shape=(12, 500))
    recipe = with_model(world.recipe(), encoder_from=str(folder), encoder_options={})
    refused(recipe, tmp_path, r"learned from 12 leads of 500 samples, but this run shows 12 of 250; prepare")


def test_segments_made_otherwise_than_in_pretraining(world, tmp_path: Path) -> None:
    pipeline = dict(SegmentStore(world.store).manifest["settings"]["pipeline"])
    key = next(k for k, v in pipeline.items() if isinstance(v, float))
    folder = make_folder(world, tmp_path / "encoder", pipeline={**pipeline, key: 77.0})
    refused(with_model(world.recipe(), encoder_from=str(folder)), tmp_path, rf"made otherwise: {key} 77\.0 \(here")


def test_an_encoder_for_signals_is_not_for_pictures(world, folder: Path) -> None:
    with pytest.raises(ValueError, match="'image' gives a picture, but encoder 'resnet1d' reads a signal"):
        replace(with_model(world.recipe(), encoder_from=str(folder)), signal=None, image=ImageOptions())


def test_a_vit_of_a_folder_needs_neither_options_nor_its_folder(world, tmp_path: Path) -> None:
    """LLaVA's way: a general image encoder, frozen, from a folder that says all of it."""
    torch.manual_seed(5)
    vit = build_encoder("vit", input_shape=(3, 64, 64), options=VIT)
    folder = save_encoder(tmp_path / "vit", vit, name="vit", options=VIT, input_shape=(3, 64, 64))
    recipe = world.recipe(parts=("connector", "llm"))
    model = replace(recipe.model, encoder_from=str(folder), encoder_options={})
    recipe = replace(recipe, signal=None, image=ImageOptions(num_tokens=4), model=model)
    run = train(recipe, tmp_path / "run", say=quiet)
    shutil.rmtree(folder)
    found = from_pretrained(run.best).elm.encoder
    torch.testing.assert_close(found.state_dict(), vit.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="is not here to say what it reads; name the representation"):
        replace(recipe, image=None)


# --- frozen encoders


def test_an_encoder_that_never_learns_cannot_be_asked_to(world, tmp_path: Path) -> None:
    recipe = with_model(world.recipe(), encoder="random", encoder_options={"options": ENCODER})
    refused(
        replace(recipe, train=replace(recipe.train, parts=("encoder", "connector"))),
        tmp_path,
        r"train\.parts names encoder, but encoder 'random' never learns; leave encoder out",
    )
    bundle = from_pretrained(train(recipe, tmp_path / "run", say=quiet).best)
    elm = bundle.elm
    wanted = build_encoder("random", input_shape=(12, SEG_LEN), options={"options": ENCODER}).state_dict()
    torch.testing.assert_close(elm.encoder.state_dict(), wanted, rtol=0, atol=0)
    with pytest.raises(ConfigError, match="never learns"):
        elm.set_trainable(["encoder"])
    elm.set_trainable(["connector", "llm"])
    elm.train()
    assert not any(m.training for m in elm.encoder.modules())


# --- signal and picture


def dual_recipe(world: World, **changes: object) -> Recipe:
    recipe = with_model(world.recipe(), image=replace(DUAL, **changes))
    return replace(recipe, image=ImageOptions(num_tokens=4))


def test_two_encoders_fill_the_placeholders_of_each(world, tmp_path: Path) -> None:
    """Against the definition: the signal's vectors first, the picture's behind them; batch equal to singles (D5)."""
    run = train(dual_recipe(world), tmp_path / "run", say=quiet)
    bundle = from_pretrained(run.best)
    elm, ecgs = bundle.elm, EcgSource([SegmentStore(world.store)], bundle.representation)
    assert elm.parts == ("encoder", "image_encoder", "connector", "llm", "embeddings")
    rows = world.conversations("train")[:3]
    examples = [bundle.prompter.build(c.id, c.turns, [ecgs.encode(e) for e in c.ecgs]) for c in rows]
    batch = collate(examples, pad_id=0)
    assert batch["ecg"].shape == (3, 12, SEG_LEN) and batch["image"].shape == (3, 3, 64, 64)
    with torch.no_grad():
        embedded = elm.embed(batch["input_ids"], batch["ecg"], batch["image"])
        signal = elm.connector(elm.encoder(batch["ecg"]))
        image = elm.image_connector(elm.image_encoder(batch["image"]))
        for row in range(3):
            at = (batch["input_ids"][row] == elm.placeholder_id).nonzero()[:, 0]
            beside = (batch["input_ids"][row] == elm.image_placeholder_id).nonzero()[:, 0]
            assert beside.tolist() == list(range(int(at[-1]) + 1, int(at[-1]) + 5))
            torch.testing.assert_close(embedded[row, at], signal[row])
            torch.testing.assert_close(embedded[row, beside], image[row])
        whole = elm(batch["input_ids"], batch["attention_mask"], batch["position_ids"], batch["ecg"], 0, batch["image"])
        for row, example in enumerate(examples):
            alone = collate([example], pad_id=0)
            single = elm(alone["input_ids"], alone["attention_mask"], None, alone["ecg"], 0, alone["image"])[0]
            torch.testing.assert_close(whole[row, : len(single)], single, rtol=1e-4, atol=1e-4)


def test_a_shared_projector_takes_the_signal_through_the_pictures(world) -> None:
    """GEM: Linear to the picture's width, then the picture's own projector (spec 9)."""
    recipe = dual_recipe(world, shared=True)
    store = SegmentStore(world.store)
    pipeline = store.manifest["settings"]["pipeline"]
    bundle = create(recipe.model, representation_of(recipe, [store], []), pipeline, ["a question"], 0)
    elm = bundle.elm
    assert (elm.connector.project.in_features, elm.connector.project.out_features) == (16, 64)
    shown = torch.randn(2, 12, SEG_LEN)
    ids = torch.full((2, 4), elm.placeholder_id)
    elm.eval()
    with torch.no_grad():
        means = torch.stack([t.mean(dim=1) for t in elm.encoder(shown).tensor_split(4, dim=1)], dim=1)
        wanted = elm.image_connector.project(elm.connector.project(means))
        torch.testing.assert_close(elm.embed(ids, shown), wanted, rtol=1e-4, atol=1e-5)


def test_modality_dropout_is_seeded_per_row_and_epoch(world) -> None:
    store = SegmentStore(world.store)
    recipe = dual_recipe(world, modality_dropout=0.6)
    bundle = create(
        recipe.model, representation_of(recipe, [store], []), store.manifest["settings"]["pipeline"], ["a question"], 0
    )
    ecgs = EcgSource([store], bundle.representation)
    data = [ElmDataset(world.conversations("train"), ecgs, bundle.prompter, seed=3) for _ in range(2)]

    def seen(which: int, index: int, epoch: int) -> str:
        example = data[which][index, epoch]
        ids = example.input_ids
        found = "".join(
            letter
            for letter, tensor, token in (
                ("s", example.ecg, bundle.elm.placeholder_id),
                ("i", example.image, bundle.elm.image_placeholder_id),
            )
            if tensor is not None and (ids == token).sum() == 4
        )
        assert (ids == bundle.elm.placeholder_id).any() == (example.ecg is not None)
        return found

    table = [[seen(0, i, epoch) for i in range(len(data[0]))] for epoch in range(12)]
    again = [[seen(1, i, epoch) for i in reversed(range(len(data[1])))][::-1] for epoch in range(12)]
    assert table == again  # whoever asks, in whatever order
    flat = [x for row in table for x in row]
    shares = {what: flat.count(what) / len(flat) for what in set(flat)}
    assert set(shares) == {"si", "s", "i"}
    spread = 3 * (0.25 / len(flat)) ** 0.5
    assert abs(shares["si"] - 0.4) < spread and abs(shares["s"] - 0.3) < spread
    assert table[0] != table[1]
    assert all(data[0][i].ecg is not None and data[0][i].image is not None for i in range(3))  # as it is, both


def test_a_dual_model_comes_back_and_answers_without_one_input(world, tmp_path: Path) -> None:
    run = train(dual_recipe(world, modality_dropout=0.5), tmp_path / "run", say=quiet)
    bundle = from_pretrained(run.best)
    assert isinstance(bundle.representation, Dual)
    config = bundle.representation.config()
    assert build_representation(config).config() == config
    assert not bundle.representation(np.zeros((12, SEG_LEN), np.float32), RATE).truncated
    done = predict(
        run.best,
        world.data,
        [str(world.store)],
        tmp_path / "p",
        controls=("no-signal", "no-image"),
        max_new_tokens=2,
        say=quiet,
    )
    rows = read_jsonl(done.path / "predictions.jsonl")
    assert {r["control"] for r in rows} == {"real", "no-signal", "no-image"} and not any("error" in r for r in rows)


def test_hiding_one_of_one_input_is_refused(world, signal_run: Path, tmp_path: Path) -> None:
    with pytest.raises(EcglmError, match="'no-image' hides one of two inputs, but this model reads one"):
        predict(signal_run / "best", world.data, [str(world.store)], tmp_path / "p", controls=("no-image",), say=quiet)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("signal: {}\nstacked: {}\nimage: {}\nmodel: {image: {encoder: vit}}", "one representation of a picture"),
        ("signal: {}\nsymbols: {}\nmodel: {image: {encoder: vit}}", "'symbols' gives neither"),
        ("model: {image: {encoder: resnet1d}}", r"model\.image\.encoder 'resnet1d' reads a signal; choose one of clip"),
        ("model: {encoder: vit, image: {encoder: vit}}", "'signal' gives a signal, but encoder 'vit' reads a picture"),
        ("model: {image: {}}", "model.image needs an encoder"),
        ("model: {image: {encoder: vit, modality_dropout: 2}}", "must lie between 0 and 1"),
        ("symbols: {}\nmodel: {encoder_from: x}", r"'symbols' feeds no encoder, but model\.encoder_from is given"),
        ("signal: {}\nmodel: {encoder: null, encoder_from: x}", "model.encoder is empty"),
        ("signal: {}\nmodel: {encoder: signal2vec}", "encoder 'signal2vec' reads symbols"),
    ],
)
def test_sections_that_do_not_go_together(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        strict.loads(f"name: x\ndata: {{files: [a], stores: [b]}}\n{text}\n", Recipe, "r")
    assert str(error.value).startswith("r, line ") and "\n" not in str(error.value)


# --- adapters at the ECG alone, attention both ways (VoRA)


@pytest.fixture
def vora(world, llm_folder: Path, tmp_path: Path) -> Bundle:
    recipe = with_model(
        world.recipe(max_steps=4, eval_every=4),
        llm=str(llm_folder),
        encoder="linear",
        encoder_options={},
        connector="linear",
        lora=LoraConfig(rank=4, where="ecg"),
        ecg_attention="bidirectional",
    )
    return from_pretrained(train(recipe, tmp_path / "run", say=quiet).best)


def prompt(bundle: Bundle, world: World, index: int = 0):
    ecgs = EcgSource([SegmentStore(world.store)], bundle.representation)
    row = world.conversations("train")[index]
    return bundle.prompter.build(row.id, row.turns[:1], [ecgs.encode(e) for e in row.ecgs], generate=True)


def logits(bundle: Bundle, example) -> torch.Tensor:
    batch = collate([example], pad_id=0)
    with torch.no_grad():
        return bundle.elm(batch["input_ids"], batch["attention_mask"], batch["position_ids"], batch.get("ecg"))[0]


def test_adapters_act_where_the_ecg_stands_and_nowhere_else(vora: Bundle, world) -> None:
    elm, example = vora.elm, prompt(vora, world)
    text = torch.from_numpy(example.input_ids[example.input_ids != elm.placeholder_id])[None]
    with_adapters, ecg = elm(text, torch.ones_like(text)), logits(vora, example)
    with torch.no_grad():
        for name, weight in elm.llm.named_parameters():
            if "lora_B" in name:
                weight.mul_(3).add_(0.01)
    torch.testing.assert_close(elm(text, torch.ones_like(text)), with_adapters, rtol=0, atol=0)  # text reads as before
    assert (logits(vora, example) - ecg).abs().max() > 1e-3


def test_tokens_of_one_ecg_see_each_other(vora: Bundle, world) -> None:
    """Causal: the first position of the ECG cannot know the last sample. Both ways it does; text before never."""
    example = prompt(vora, world)
    changed = replace(example, ecg=example.ecg.copy())
    changed.ecg[:, :, -1] += 1.0
    at = np.flatnonzero(example.input_ids == vora.elm.placeholder_id)
    for both, moves in ((True, True), (False, False)):
        vora.elm.bidirectional = both
        moved = (logits(vora, changed) - logits(vora, example)).abs().amax(dim=1)
        assert bool(moved[at[0]] > 1e-7) is moves
        assert not moved[: at[0]].any() and moved[at[-1]] > 1e-7


def test_generation_reads_the_prompt_with_the_same_mask(vora: Bundle, world) -> None:
    """Each answer token is the argmax of a whole forward pass over what came before; alone as in company."""
    examples = [prompt(vora, world, i) for i in (0, 1, 4)]
    together = generate(vora.elm, vora.prompter, examples, max_new_tokens=4)
    for example, answer in zip(examples, together, strict=True):
        assert generate(vora.elm, vora.prompter, [example], max_new_tokens=4)[0] == answer
        ids = example.input_ids
        for _ in range(4):
            grown = replace(example, input_ids=ids, labels=np.full(len(ids), -100))
            ids = np.append(ids, int(logits(vora, grown)[-1].argmax()))
            if ids[-1] == vora.prompter.end_id:
                break
        new = ids[len(example.input_ids) :].tolist()
        new = new[: new.index(vora.prompter.end_id)] if vora.prompter.end_id in new else new
        assert vora.prompter.tokenizer.decode(new, skip_special_tokens=True).strip() == answer["text"]


def test_adapters_of_the_ecg_are_kept_beside_the_llm(vora: Bundle, world, tmp_path: Path) -> None:
    wanted = logits(vora, prompt(vora, world))
    save_pretrained(vora, tmp_path / "again")
    assert (tmp_path / "again" / "adapter.safetensors").is_file()
    assert torch.equal(logits(from_pretrained(tmp_path / "again"), prompt(vora, world)), wanted)


def test_adapters_of_the_ecg_need_an_encoder(world, llm_folder: Path, tmp_path: Path) -> None:
    recipe = with_model(world.recipe(symbols=True), llm=str(llm_folder), lora=LoraConfig(where="ecg"))
    refused(
        recipe, tmp_path, r"model\.lora\.where ecg adapts the LLM where an encoder's tokens stand, and here are none"
    )


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ecglm.models.llm import tiny_llm, train_tokenizer

    folder = tmp_path_factory.mktemp("llm") / "base"
    tokenizer = train_tokenizer(["What is the rhythm?", "sinus rhythm", "Is the axis normal?"] * 3, 300)
    tiny_llm(tokenizer, hidden=32, num_layers=2, num_heads=2, max_len=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- symbols through a frozen table


def test_signal2vec_reads_symbols_through_its_table(world, tmp_path: Path) -> None:
    recipe = world.recipe(symbols=True)
    recipe = with_model(recipe, encoder="signal2vec", encoder_options={"dim": 8}, connector="linear")
    run = train(recipe, tmp_path / "run", say=quiet)
    bundle = from_pretrained(run.best)
    elm = bundle.elm
    assert elm.encoder.table.abs().sum() > 0  # learned from the training ECGs, kept in the checkpoint
    example = prompt(bundle, world)
    ids = torch.from_numpy(example.input_ids)[None]
    names = [t for t in bundle.representation.added_tokens if t.startswith("signal_")]
    vocab = bundle.prompter.tokenizer.get_vocab()
    embedded, own = elm.embed(ids)[0], elm.llm.get_input_embeddings()(ids)[0]
    places = {vocab[name]: number for number, name in enumerate(names)}
    for position, token in enumerate(example.input_ids.tolist()):
        wanted = elm.connector.project(elm.encoder.table[places[token]]) if token in places else own[position]
        torch.testing.assert_close(embedded[position], wanted, rtol=1e-5, atol=1e-6)
    assert sum(t in places for t in example.input_ids.tolist()) > 10
    assert json.loads((run.best / "config.json").read_text())["model"]["encoder"] == "signal2vec"


def test_a_folder_that_another_length_fits_exactly_may_be_used(world, tmp_path: Path) -> None:
    """Fixed positions and patches of the same size: ``fit_weights`` makes them of another length."""
    options = {"size": "tiny", "patch_size": 25}
    folder = make_folder(
        world, tmp_path / "st_mem", "st_mem", options, input_shape=(12, SEG_LEN), representation=None, pipeline=None
    )
    encoder = load_encoder(folder, (12, SEG_LEN))
    recipe = with_model(world.recipe(parts=("connector", "llm")), encoder="auto", encoder_from=str(folder))
    recipe = with_model(recipe, encoder_options={})
    found = from_pretrained(train(recipe, tmp_path / "run", say=quiet).best).elm.encoder
    shown = torch.randn(2, 12, SEG_LEN)
    with torch.no_grad():
        torch.testing.assert_close(found(shown), encoder(shown))
