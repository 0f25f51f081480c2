"""An encoder's vector of an ECG: as the encoder gives it, from a folder or a checkpoint; in an index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecglm.errors import ConfigError, EcglmError, RejectedRecord
from ecglm.files import file_sha256
from ecglm.models.checkpoint import from_pretrained
from ecglm.models.encoder_files import save_encoder
from ecglm.models.encoders.base import build_encoder
from ecglm.representations.signal import SignalRepresentation
from ecglm.retrieval.embedding import embedded, read_embedder
from ecglm.retrieval.index import Exclude, Index, build_index
from ecglm.store.reader import SegmentStore
from index_world import RATE, SEG_LEN, people, quiet, store_of
from tiny_world import ENCODER

LEADS = ("I", "II", "V1", "V5")


def encoder_folder(folder: Path, pipeline, *, seed: int = 0, nan: bool = False, learn=None) -> Path:
    torch.manual_seed(seed)
    encoder = build_encoder("resnet1d", input_shape=(4, SEG_LEN), options=ENCODER)
    if learn is not None:
        learn(encoder)
    if nan:
        with torch.no_grad():
            next(iter(encoder.parameters())).fill_(float("nan"))
    shown = SignalRepresentation(num_samples=SEG_LEN, leads=LEADS, num_tokens=4).config()
    return save_encoder(
        folder, encoder.eval(), name="resnet1d", options=ENCODER, input_shape=(4, SEG_LEN), pipeline=pipeline,
        representation=shown,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(people_store):
    return people_store.manifest["settings"]["pipeline"]


def test_a_folders_encoder_sees_the_leads_it_learned_from(tmp_path, people_store, pipeline):
    embedder = read_embedder(encoder_folder(tmp_path / "e", pipeline), pipeline)
    found = embedder(people_store[:3], RATE)
    picked = torch.from_numpy(people_store[:3][:, [0, 1, 6, 10]])
    with torch.no_grad():
        expected = embedder.encoder(picked).mean(dim=1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.numpy())


def test_a_checkpoints_encoder_is_the_one_it_answers_with(world, signal_run):
    store = SegmentStore(world.store)
    bundle = from_pretrained(signal_run / "best")
    embedder = read_embedder(signal_run / "best", store.manifest["settings"]["pipeline"])
    with torch.no_grad():
        expected = bundle.elm.encoder(torch.from_numpy(store[:5])).mean(dim=1)
    np.testing.assert_array_equal(embedder(store[:5], store.rate), expected.numpy())


def test_what_cannot_give_a_vector_is_told(tmp_path, world, symbols_run, signal_run, pipeline):
    with pytest.raises(EcglmError, match="has no encoder that gives an ECG one vector; index by features"):
        read_embedder(symbols_run / "best")
    with pytest.raises(EcglmError, match="neither an encoder folder nor a checkpoint; name the folder best"):
        read_embedder(tmp_path)
    with pytest.raises(EcglmError, match=r"learned from segments made otherwise: mains None \(here 50\.0\)"):
        made = SegmentStore(world.store).manifest["settings"]["pipeline"]
        read_embedder(signal_run / "best", {**made, "mains": 50.0})
    with pytest.raises(ConfigError, match="learned from segments made otherwise: preset"):
        read_embedder(encoder_folder(tmp_path / "e", pipeline), {**pipeline, "preset": "none"})


def test_an_index_by_both_is_its_two_parts_side_by_side(tmp_path, people_store, people_index, pipeline):
    folder = encoder_folder(tmp_path / "e", pipeline)
    both, alone = (
        build_index([people_store.path], tmp_path / by, by=by, encoder=folder, say=quiet)
        for by in ("both", "embedding")
    )
    expected = np.concatenate([people_index.vectors, alone.vectors], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(both.vectors, expected, rtol=1e-5, atol=1e-7)
    assert alone.feature_names == () and both.feature_names == people_index.feature_names
    shutil.rmtree(folder)  # the index holds its own encoder
    query, own = people_store[1:2], [Exclude(patients=frozenset({people_store.row(1)["patient_id"]}))]
    for index in (both, alone):
        hits = Index.load(index.path).search(query, RATE, k=3, exclude=own)[0]
        assert len(hits) == 3 and bool(hits[0].features) == (index is both)
        again = index.embed(query, RATE).astype(np.float64)
        assert hits[0].distance == pytest.approx(
            min(
                np.linalg.norm(again - v)
                for v, p in zip(index.vectors, index.table.column("patient_id").to_pylist(), strict=True)
                if p not in own[0].patients
            ),
            rel=1e-4,
        )


def test_nan_is_rejected_at_build_and_an_error_at_query(tmp_path, people_store, pipeline):
    bad = encoder_folder(tmp_path / "bad", pipeline, nan=True)
    with pytest.raises(EcglmError, match=r"every training ECG was rejected \(embedding_not_finite \d+\)"):
        build_index([people_store.path], tmp_path / "index", by="embedding", encoder=bad, say=quiet)
    with pytest.raises(RejectedRecord, match="embedding_not_finite: first: the encoder's vector holds NaN"):
        embedded(read_embedder(bad), people_store[:2], RATE, ["first", "second"])
    good = encoder_folder(tmp_path / "good", pipeline)
    index = build_index([people_store.path], tmp_path / "by", by="embedding", encoder=good, say=quiet)
    file = index.path / "encoder" / "encoder.safetensors"  # the encoder breaks later, and somebody mends the sums
    weights = {k: v * float("nan") if v.is_floating_point() else v for k, v in load_file(file).items()}
    save_file(weights, file)
    for manifest, name in ((index.path / "encoder", file.name), (index.path, f"encoder/{file.name}")):
        told = json.loads((manifest / "manifest.json").read_text())
        told["outputs"][name] = file_sha256(file)
        (manifest / "manifest.json").write_text(json.dumps(told))
    outer = json.loads((index.path / "manifest.json").read_text())
    outer["outputs"]["encoder/manifest.json"] = file_sha256(index.path / "encoder" / "manifest.json")
    for name in ("encoder/manifest.json", f"encoder/{file.name}"):
        outer["sizes"][name] = (index.path / name).stat().st_size
    (index.path / "manifest.json").write_text(json.dumps(outer))
    test = people_store.index.column("split").to_pylist().index("test")
    with pytest.raises(EcglmError, match="query 0: what is measured of it holds NaN"):
        Index.load(index.path).search(people_store[test : test + 1], RATE, k=1)


def test_a_changed_encoder_inside_an_index_is_named(tmp_path, people_store, pipeline):
    folder = encoder_folder(tmp_path / "e", pipeline)
    index = build_index([people_store.path], tmp_path / "index", by="embedding", encoder=folder, say=quiet)
    file = index.path / "encoder" / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EcglmError, match=r"encoder\.safetensors"):
        Index.load(index.path)


def test_the_nearest_by_embedding_have_the_same_rhythm(tmp_path):
    """An encoder that learned the rhythm of training ECGs finds those of the same one, far above chance."""
    records = people(90, seed=21)
    store = store_of(tmp_path / "store", records)
    rhythm = [next(x for x in r.labels if x.startswith("rhythm:")) for r in records]
    names = sorted(set(rhythm))
    train = [i for i, r in enumerate(records) if r.split == "train"]

    def learn(encoder) -> None:
        head = torch.nn.Linear(encoder.dim, len(names))
        optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=5e-3)
        x = torch.from_numpy(store.take(train)[:, [0, 1, 6, 10]])
        y = torch.tensor([names.index(rhythm[i]) for i in train])
        for _ in range(60):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(head(encoder(x).mean(dim=1)), y).backward()
            optimiser.step()

    folder = encoder_folder(tmp_path / "e", store.manifest["settings"]["pipeline"], learn=learn)
    index = build_index([store.path], tmp_path / "index", by="embedding", encoder=folder, say=quiet)
    test = [i for i, r in enumerate(records) if r.split != "train"]
    hits = index.search(store.take(test), RATE, k=1)
    same = np.mean([rhythm[i] in hit[0].labels for i, hit in zip(test, hits, strict=True)])
    chance = np.mean([np.mean([rhythm[i] == rhythm[j] for j in train]) for i in test])
    assert chance < 0.2 and same > 3 * chance, (same, chance)
