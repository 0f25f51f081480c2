"""BERTScore against the package bert-score, on a small model made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecglm import registry
from ecglm.evaluation.metrics import bertscore
from ecglm.evaluation.score import score

TEXT = "sinus rhythm normal ecg left axis deviation no st elevation in v2 and atrial fibrillation . 72 bpm"
WORDS = TEXT.split()
PAIRS = [
    ("normal ecg . sinus rhythm", "sinus rhythm . normal ecg"),
    ("atrial fibrillation", "no atrial fibrillation in v2 and left axis deviation"),
    ("st elevation in v2", "72 bpm"),
    ("unknownword sinus", "rhythm"),
    ("sinus", "sinus"),
    ("sinus rhythm " * 20, "rhythm sinus " * 30),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A BERT of three layers with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=48)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_bertscore_equals_the_package_bert_score(model, layer):
    package = pytest.importorskip("bert_score")
    truth, stated = [t for t, _ in PAIRS], [s for _, s in PAIRS]
    expected = package.score(
        stated, truth, model_type=model, num_layers=layer, idf=False, rescale_with_baseline=False, batch_size=1
    )
    got = bertscore.BertScore(model, layer).compare(truth, stated)
    np.testing.assert_allclose(got, np.stack([part.numpy() for part in expected], axis=1), atol=2e-6)


def test_the_layer_is_the_published_one_or_the_last(model):
    assert bertscore.LAYERS["roberta", 24] == 17 and bertscore.LAYERS["bert", 12] == 9
    assert bertscore.BertScore(model).layer == 3
    with pytest.raises(ValueError, match="has layers 0 to 3"):
        bertscore.BertScore(model, 4)


def rows_of(pairs):
    return [
        {
            "id": f"r{i}", "task": "report", "reference": t, "prediction": s, "patient_id": f"p{i}",
            "metadata": {"question_type": "text"},
        }
        for i, (t, s) in enumerate(pairs)
    ]  # fmt: skip


def test_scores_name_the_model_its_layer_and_hash(model):
    found = score(rows_of([*PAIRS, ("sinus rhythm", "")]), num_resamples=20, bertscore=model)
    scorer = bertscore.BertScore(model)
    expected = scorer.compare([t for t, _ in PAIRS], [s for _, s in PAIRS]).sum(axis=0) / (len(PAIRS) + 1)
    for column, name in enumerate(("bertscore_p", "bertscore_r", "bertscore_f1")):
        assert found["controls"]["real"]["report"][name]["value"] == pytest.approx(expected[column], abs=1e-6)
        facts = found["computed_with"][name]
        assert (facts["model"], facts["layer"], facts["sha256"]) == (model, 3, scorer.sha256)
    assert len(scorer.sha256) == 64
    assert not {"bertscore_p", "bertscore_f1"} & set(found["unavailable"])


def test_without_a_model_the_rest_is_computed_and_the_reason_said(tmp_path):
    found = score(rows_of(PAIRS), num_resamples=20)
    assert "--bertscore MODEL" in found["unavailable"]["bertscore_f1"]
    assert "bertscore_f1" not in found["controls"]["real"]["report"]
    assert found["controls"]["real"]["report"]["rougeL"]["value"] > 0
    found = score(rows_of(PAIRS), num_resamples=20, bertscore=str(tmp_path))
    reason = found["unavailable"]["bertscore_f1"]
    assert "cannot be read" in reason and "\n" not in reason
    assert registry.get("metrics", "bertscore_f1").lacks([{}]), "outside of score no model is in use"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """Not as a hub id with wrong characters."""
    with bertscore.computed_with(f"{tmp_path}/none"):
        reason = registry.get("metrics", "bertscore_f1").lacks([{"reference": "a", "prediction": "a"}])
    assert reason == f"the model {tmp_path}/none cannot be read: no such folder"
