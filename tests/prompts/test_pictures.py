"""Picture files as ECGs: the very pixels of the file, one picture a talk, and every bad file told beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import ConfigError, EcglmError, RejectedRecord
from ecglm.models.checkpoint import from_pretrained
from ecglm.prompts.data import EcgSource, ElmDataset
from ecglm.prompts.pictures import PREFIX, PictureFiles, is_picture_id, picture_id
from ecglm.representations.anyres import AnyresRepresentation
from ecglm.representations.augment import Augmentation
from ecglm.representations.image import ImageRepresentation
from ecglm.representations.image_augment import augment_image
from ecglm.representations.signal import SignalRepresentation
from ecglm.store.reader import SegmentStore
from ecglm.types import Conversation, Turn

SIZE = (64, 96)
PAGE = ImageRepresentation(num_tokens=2, image_size=SIZE)
TILED = AnyresRepresentation(image_size=(32, 32), patches=(2, 2), size=(132, 102))


def draw(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """A file of coloured noise; returns its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def talk(name: str, ecg: str, image: str | None = None, answer: str = "no") -> Conversation:
    metadata = {} if image is None else {"image": image}
    turns = (Turn("user", "<ecg>\nrhythm?"), Turn("assistant", answer))
    return Conversation(name, "own", "t", "train", (ecg,), ("p",), turns, metadata=metadata)


@pytest.fixture(scope="module")
def store(world) -> SegmentStore:
    return SegmentStore(world.store)


@pytest.fixture(scope="module")
def prompter(signal_run: Path):
    return from_pretrained(signal_run / "best").prompter


def test_the_file_is_shown_pixel_for_pixel_and_never_drawn_anew(tmp_path, store, prompter) -> None:
    record = store.records()[0]
    pixels = [draw(tmp_path / f"mimic/{n}.png", seed=n) for n in range(2)]
    talks = [talk(f"t{n}", record, f"mimic/{n}.png") for n in range(2)] + [talk("drawn", record)]
    data = ElmDataset(talks, EcgSource([store], PAGE, (tmp_path,)), prompter)
    for epoch in (None, 0, 1):
        for n in range(2):
            example = data[n] if epoch is None else data[n, epoch]
            np.testing.assert_array_equal(example.ecg[0], pixels[n].transpose(2, 0, 1))
    np.testing.assert_array_equal(data[2].ecg[0], PAGE(store[store.segments_of(record)[0]], store.rate).tensor)
    without = ElmDataset(talks, EcgSource([store], PAGE), prompter)
    assert (without[0].ecg == data[2].ecg).all(), "without folders every page is drawn"


def test_questions_share_a_sequence_where_they_share_the_picture(tmp_path, store, prompter) -> None:
    record = store.records()[0]
    for n in range(2):
        draw(tmp_path / f"{n}.png", seed=n)
    talks = [talk("a", record, "0.png"), talk("b", record, "1.png"), talk("c", record, "0.png"), talk("d", record)]
    data = ElmDataset(talks, EcgSource([store], PAGE, (tmp_path,)), prompter, share_ecg=True)
    assert [[c.id for c in group] for group in data.items] == [["a", "c"], ["b"], ["d"]]
    assert len(ElmDataset(talks, EcgSource([store], PAGE), prompter, share_ecg=True)) == 1


def test_bad_files_are_rejected_before_training_each_with_its_reason(tmp_path, store, prompter) -> None:
    draw(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:4000])
    (tmp_path / "text.jpg").write_text("no picture")
    images = ("good.png", "none.png", "torn.png", "text.jpg", "../secret.png", "/etc/hosts", "a\0b", "x" * 5000, "./")
    outside = tmp_path.parent / "secret.png"
    draw(outside)
    rows = [talk(f"t{n}", PREFIX + name, name) for n, name in enumerate(images)]
    data = ElmDataset(rows, EcgSource([store], PAGE, (tmp_path,)), prompter)
    assert data.counts() == {
        "used": 1,
        "rejected:image_corrupt": 2,
        "rejected:image_missing": 2,
        "rejected:unsafe_image_path": 4,
    }
    assert [r["id"] for r in data.rejected] == [f"t{n}" for n in range(1, 9)]
    outside.unlink()


def test_a_picture_without_folder_is_no_recording(store, prompter) -> None:
    data = ElmDataset([talk("a", "image/x.png", "x.png")], EcgSource([store], PAGE), prompter)
    assert data.counts() == {"used": 0, "rejected:no_signal_record": 1}


def test_the_first_folder_wins_and_ids_are_paths(tmp_path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    draw(first / "x.png", (10, 20))
    draw(second / "x.png", (30, 40))
    draw(second / "deep" / "y.png", (50, 60))
    files = PictureFiles((first, second))
    assert files.size("image/x.png") == (10, 20) and files.read("image/deep/y.png").shape == (50, 60, 3)
    assert is_picture_id("image/x.png") and not is_picture_id("ptb-xl/00001")
    assert picture_id(talk("a", "ptb-xl/1", " x.png ")) == "image/x.png" and picture_id(talk("a", "ptb-xl/1")) is None
    two = replace(talk("a", "ptb-xl/1", "x.png"), ecgs=("ptb-xl/1", "ptb-xl/2"))
    assert picture_id(two) is None, "one picture cannot stand for two ECGs"
    assert files.holds("image/x.png") and not files.holds("image/y.png")
    with pytest.raises(EcglmError, match=r"data\.images: .*none is no folder"):
        PictureFiles((tmp_path / "none",))
    with pytest.raises(RejectedRecord) as error:
        files.size("image/y.png")
    assert error.value.reason == "image_missing"


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_many_files_are_looked_at_together_and_once(tmp_path, monkeypatch, parts: int) -> None:
    """Each of several processes looks at its share, and all know of all."""
    monkeypatch.setattr("ecglm.prompts.pictures._MANY", 4)
    names = [f"image/{n}.png" for n in range(6)]
    for n in range(5):
        draw(tmp_path / f"{n}.png", (10 + n, 12))
    shares: list[np.ndarray] = []
    for part in range(parts):
        PictureFiles((tmp_path,)).check(names, part, parts, lambda sizes: shares.append(sizes) or sizes)
    assert sum((share[:, 0] > 0).sum() for share in shares) == 5
    files = PictureFiles((tmp_path,))
    read = files.read
    files.check(names, 0, parts, lambda sizes: sum(shares))
    monkeypatch.setattr(files, "read", lambda ecg: pytest.fail("looked at again"))
    assert [files.size(name) for name in names[:5]] == [(10 + n, 12) for n in range(5)]
    monkeypatch.setattr(files, "read", read)
    with pytest.raises(RejectedRecord, match=r"5\.png"):
        files.size(names[5])


def test_a_run_is_told_apart_by_names_and_sizes_wherever_the_folder_lies(tmp_path) -> None:
    draw(tmp_path / "a" / "x.png")
    draw(tmp_path / "b" / "x.png")
    one, other = (PictureFiles((tmp_path / name,)) for name in "ab")
    before = one.fingerprint(["image/x.png", "image/y.png"])
    assert before == other.fingerprint(["image/y.png", "image/x.png", "image/x.png"])
    draw(tmp_path / "b" / "x.png", (5, 5))
    assert before != other.fingerprint(["image/x.png", "image/y.png"]) != one.fingerprint(["image/x.png"])


def test_only_what_reads_a_picture_alone_takes_files(tmp_path, store) -> None:
    with pytest.raises(ConfigError, match="which representation 'signal' does not read"):
        EcgSource([store], SignalRepresentation(num_tokens=2, num_samples=store.seg_len), (tmp_path,))


def test_tiles_are_of_the_file_and_their_number_follows_its_shape(tmp_path, store, prompter) -> None:
    shapes = {"wide.png": ((20, 90), 4), "square.png": ((80, 80), 5), "high.png": ((60, 20), 3)}
    for name, (size, _) in shapes.items():
        draw(tmp_path / name, size)
    rows = [talk(name, PREFIX + name, name) for name in shapes]
    data = ElmDataset(rows, EcgSource([store], TILED, (tmp_path,)), prompter)
    for i, (name, (size, tiles)) in enumerate(shapes.items()):
        example = data[i, 0]
        assert example.ecg.shape == (tiles, 3, 32, 32) and example.tiles.tolist()[0][2:] == [size[1], size[0]], name
        assert data.lengths[i] == len(example.input_ids), "known before the picture is cut"
        placeholders = int((example.input_ids == prompter.ecg_ids[0]).sum())
        assert placeholders == tiles * 4
        whole = Image.open(tmp_path / name).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(example.ecg[0], np.asarray(whole).transpose(2, 0, 1))


def test_drawn_pages_are_others_in_every_epoch_and_the_same_again(store, prompter) -> None:
    shown = replace(TILED, synthesis="pulse")
    rows = [talk("a", store.records()[0]), talk("b", store.records()[0])]
    one, again = (ElmDataset(rows, EcgSource([store], shown), prompter, seed=3) for _ in range(2))
    other = ElmDataset(rows, EcgSource([store], shown), prompter, seed=4)
    pictures = [one[0, 0].ecg, one[0, 1].ecg, one[1, 0].ecg, other[0, 0].ecg, one[0].ecg]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])
    np.testing.assert_array_equal(again[0, 1].ecg, pictures[1])
    np.testing.assert_array_equal(again[0, 0].ecg, pictures[0])


def test_the_page_is_varied_before_it_is_cut(tmp_path, store, prompter) -> None:
    pixels = draw(tmp_path / "x.png", (80, 80))
    plan = Augmentation.from_plain({"image": {"p": 1, "each": 1, "rotation": [3, 5]}})
    rows = [talk("a", "image/x.png", "x.png"), talk("b", store.records()[0])]
    data = ElmDataset(rows, EcgSource([store], TILED, (tmp_path,)), prompter, augmentation=plan, seed=2)
    varied = augment_image(pixels, plan.image, seed=2, row_id="conversation/a/0", epoch=1)
    np.testing.assert_array_equal(data[0, 1].ecg, TILED.of_picture(varied).tensor)
    page = TILED.page(store[store.segments_of(store.records()[0])[0]], store.rate)
    varied = augment_image(page, plan.image, seed=2, row_id="conversation/b/0", epoch=1)
    np.testing.assert_array_equal(data[1, 1].ecg, TILED.of_picture(varied).tensor)
