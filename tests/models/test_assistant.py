"""Asking a trained model about a recording in a file gives what prediction gives for the same ECG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecglm.errors import EcglmError, RejectedRecord
from ecglm.evaluation.predict import predict
from ecglm.files import read_jsonl
from ecglm.models.assistant import Assistant, load
from ecglm.prompts.data import EcgSource
from ecglm.records.formats import read
from ecglm.records.synthetic import Synthetic
from ecglm.store.reader import SegmentStore
from ecglm.types import LEADS, Record, Turn


@pytest.fixture(scope="module", params=["signal", "symbols"])
def assistant(request) -> Assistant:
    return load(request.getfixturevalue(f"{request.param}_run") / "best")


@pytest.fixture(scope="module")
def predicted(world, signal_run, symbols_run, tmp_path_factory) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("predicted")
    for name, run in (("signal", signal_run), ("symbols", symbols_run)):
        predict(run / "best", world.data, [world.store], folder / name, max_new_tokens=8, say=lambda t: None)
    return {name: read_jsonl(folder / name / "predictions.jsonl") for name in ("signal", "symbols")}


def original(record_id: str) -> Record:
    return Synthetic(num_patients=12, seed=3).read(record_id)


def as_wfdb(record: Record, folder: Path) -> Record:
    import wfdb

    wfdb.wrsamp(
        "x",
        fs=int(record.sampling_rate),
        units=["mV"] * 12,
        sig_name=list(record.leads),
        p_signal=record.signal.T.astype(np.float64),
        fmt=["32"] * 12,
        adc_gain=[1e8] * 12,
        baseline=[0] * 12,
        write_dir=str(folder),
    )
    return read(folder / "x.hea")


def as_npy(record: Record, folder: Path) -> Record:
    np.save(folder / "x.npy", record.signal)
    return read(folder / "x.npy", rate=record.sampling_rate, leads=list(record.leads), units="mV")


def as_csv(record: Record, folder: Path) -> Record:
    """Microvolts, and the leads in another order: the header tells."""
    order = LEADS[::-1]
    rows = record.signal[[record.leads.index(lead) for lead in order]].T * 1000
    text = "\n".join([",".join(order), *(",".join(f"{v:.4f}" for v in row) for row in rows)])
    (folder / "x.csv").write_text(text + "\n")
    return read(folder / "x.csv", rate=record.sampling_rate, units="uV")


@pytest.mark.parametrize("form", [as_wfdb, as_npy, as_csv])
def test_a_file_gets_the_answer_that_prediction_gave(form, assistant: Assistant, predicted, world, tmp_path) -> None:
    kind = assistant.bundle.representation.name
    store = SegmentStore(world.store)
    source = EcgSource([store], assistant.bundle.representation)
    answers = set()
    for number, row in enumerate(predicted[kind][::3]):
        (tmp_path / str(number)).mkdir()
        record = form(original(row["ecgs"][0]), tmp_path / str(number))
        # what the model reads is the store's segment, whole microvolts and all
        shown, stored = assistant.encode(record), source.encode(row["ecgs"][0])
        assert shown.token_ids.tolist() == stored.token_ids.tolist()
        if stored.tensor is not None:
            assert np.array_equal(shown.tensor, stored.tensor)
        assert assistant.ask(record, row["prompt"], max_new_tokens=8) == row["prediction"]
        answers.add(row["prediction"])
    assert len(answers) > 1


def test_the_ecg_comes_first_where_no_mark_is_given(assistant: Assistant, predicted) -> None:
    row = predicted[assistant.bundle.representation.name][0]
    question = row["prompt"].removeprefix("<ecg>\n")
    assert question != row["prompt"]
    record = original(row["ecgs"][0])
    assert assistant.ask(record, question, max_new_tokens=8) == row["prediction"]
    assert assistant.ask([record], f"  {question}\n", max_new_tokens=8) == row["prediction"]


def spied(assistant: Assistant, monkeypatch) -> list[str]:
    """Texts of the prompts that the model is given, the ECG's tokens as ◆."""
    prompter, seen = assistant.bundle.prompter, []
    build = type(prompter).build

    def spy(self, *args, **options):
        example = build(self, *args, **options)
        kept = ["◆" if i in self.ecg_ids else self.tokenizer.decode([i]) for i in example.input_ids]
        seen.append("".join(kept))
        return example

    monkeypatch.setattr(type(prompter), "build", spy)
    return seen


def test_an_earlier_talk_stands_before_the_question(assistant: Assistant, monkeypatch) -> None:
    record, seen = original(Synthetic(num_patients=12, seed=3).keys()[0]), spied(assistant, monkeypatch)
    history = [Turn("user", "Is it normal?"), Turn("assistant", "no")]
    assistant.ask(record, "Why?", history=history, max_new_tokens=2)
    ecg = "◆" * seen[0].count("◆")
    assert seen[0] == (
        f"<|im_start|>user\n{ecg}\nIs it normal?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("question", ["", "  \n\t"])
def test_an_empty_question_is_refused(assistant: Assistant, question: str) -> None:
    with pytest.raises(EcglmError, match="question is empty"):
        assistant.ask(original(Synthetic(num_patients=12, seed=3).keys()[0]), question)


def test_marks_must_be_as_many_as_recordings(assistant: Assistant, monkeypatch) -> None:
    one, two = (original(k) for k in Synthetic(num_patients=12, seed=3).keys()[:2])
    with pytest.raises(EcglmError, match="2 <ecg> marks for 1 recordings"):
        assistant.ask(one, "<ecg> and <ecg>?")
    with pytest.raises(EcglmError, match="1 <ecg> marks for 2 recordings"):
        assistant.ask([one, two], "<ecg>?")
    seen = spied(assistant, monkeypatch)
    assistant.ask([one, two], "First <ecg>, then <ecg>?", max_new_tokens=2)
    assert seen[0].index("First ◆") < seen[0].index(", then ◆")


def test_a_recording_that_cannot_be_used_says_why(assistant: Assistant) -> None:
    record = original(Synthetic(num_patients=12, seed=3).keys()[0])
    short = Record("x", record.signal[:, :100], record.sampling_rate, record.leads)
    with pytest.raises(RejectedRecord, match="too_short"):
        assistant.ask(short, "Rhythm?")
