"""As a Hugging Face dataset: the real ``datasets`` reads it offline, a hub of one's own takes it and gives it back."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ecglm.conversations import hub
from ecglm.conversations.card import dataset_card
from ecglm.conversations.hub import FREE, NOT_FREE, export_dataset, pull_dataset, push_dataset
from ecglm.conversations.mix import MixInput, mix
from ecglm.conversations.table import manifest_path, read_conversations, write_conversations
from ecglm.errors import EcglmError, StaleOutputError, TornOutputError, UnsafeInputError
from ecglm.files import file_sha256, read_json, write_json
from ecglm.registry import names
from ecglm.types import Conversation, Turn

sys.path.insert(0, str(Path(__file__).parent))
HUB_NAMES = {"train": "train", "validation": "val", "test": "test"}


def talk(number: int, split: str, corpus: str = "labels") -> Conversation:
    return Conversation(
        id=f"{corpus}/{split}/{number}",
        corpus=corpus,
        task="rhythm",
        split=split,
        ecgs=(f"ptb-xl/{number}",),
        patients=(f"ptb-xl/p{number}",),
        turns=(Turn("user", "<ecg>\nRhythm – größer?"), Turn("assistant", "sinus | rhythm")),
        source_id=str(number),
        metadata={"choices": ["a", "b"], "n": number},
    )


ROWS = [talk(n, ("train", "val", "train", "test", "train")[n % 5]) for n in range(25)]


@pytest.fixture
def file(tmp_path) -> Path:
    write_conversations(tmp_path / "c.parquet", ROWS, {"made": "here"}, {"store": "abc"})
    return tmp_path / "c.parquet"


def run_datasets(tmp_path: Path, code: str) -> dict:
    """What ``datasets`` says in a process without network, with a cache of its own; ``result`` is printed as JSON."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    text = f"import json, datasets\ndatasets.disable_progress_bars()\n{code}\nprint('RESULT', json.dumps(result))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("RESULT ")[1])


def as_row(conversation: Conversation) -> dict:
    row = dataclasses.asdict(conversation)
    row |= {"ecgs": list(row["ecgs"]), "patients": list(row["patients"]), "turns": list(row["turns"])}
    return row


def test_datasets_reads_our_files_and_the_exported_folder(tmp_path, file):
    pytest.importorskip("datasets")
    folder = export_dataset(file, tmp_path / "out")
    code = f"""
ours = datasets.load_dataset("parquet", data_files={str(file)!r})["train"]
both = datasets.load_dataset({str(folder)!r})
result = {{"ours": ours.to_list(), **{{name: part.to_list() for name, part in both.items()}}}}
"""
    found = run_datasets(tmp_path, code)
    for rows in found.values():
        for row in rows:
            row["metadata"] = json.loads(row["metadata"])
    assert found["ours"] == [as_row(row) for row in ROWS]
    assert set(found) == {"ours", *HUB_NAMES}
    for name, split in HUB_NAMES.items():
        assert found[name] == [as_row(row) for row in ROWS if row.split == split]


def test_a_folder_comes_back_as_it_went(tmp_path, file, monkeypatch):
    monkeypatch.setattr(hub, "ROWS_PER_FILE", 4)
    folder = export_dataset(file, tmp_path / "out")
    parts = sorted(p.name for p in (folder / "data").iterdir())
    assert [p for p in parts if p.startswith("train")] == [f"train-{n:05d}-of-00004.parquet" for n in range(4)]
    manifest = pull_dataset(str(folder), tmp_path / "back.parquet")
    back = read_conversations(tmp_path / "back.parquet")
    assert back == [row for split in ("train", "val", "test") for row in ROWS if row.split == split]
    assert manifest["settings"]["made_by"] == {"made": "here"} and manifest["settings"]["made_from"] == {"store": "abc"}
    again = export_dataset(file, tmp_path / "again")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()


def test_the_card_says_what_it_is(tmp_path, file):
    text = (export_dataset(file, tmp_path / "out") / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in HUB_NAMES],
        }
    ]
    assert "| labels | 15 | 5 | 5 | as the recordings' own labels |" in text
    assert "PTB-XL, CC BY 4.0: 25 rows" in text and file_sha256(file) in text and '"made": "here"' in text
    assert "not a medical device" in text and str(tmp_path) not in text


def test_a_hostile_corpus_name_is_only_text():
    card = dataset_card({"settings": {}, "inputs": {}}, "0", {("a|b\n---\n<img>", "train"): 1}, {"x`\n#": 1}, {})
    assert card.count("\n---\n") == 1 and "<img>" not in card and "\n#\n" not in card
    assert yaml.safe_load(card.split("---")[1])["size_categories"] == ["n<1K"]


def test_a_mix_says_what_it_was_mixed_of(tmp_path, file):
    mix([MixInput(file, 0.5)], tmp_path / "m.parquet")
    text = (export_dataset(tmp_path / "m.parquet", tmp_path / "out") / "README.md").read_text()
    assert file_sha256(file) in text and '"weight": 0.5' in text and '"not_drawn"' in text


def test_every_corpus_has_a_word_about_its_licence():
    assert set(FREE) | set(NOT_FREE) == set(names("conversations")) and not set(FREE) & set(NOT_FREE)


@pytest.mark.parametrize("corpus", ["ecg-expert-qa", "somebodys-own"])
def test_a_corpus_that_may_not_be_passed_on_is_refused(tmp_path, corpus, monkeypatch):
    write_conversations(tmp_path / "c.parquet", [talk(1, "train"), talk(2, "train", corpus)], {}, {})
    with pytest.raises(EcglmError, match=f"corpus '{corpus}' may not be passed on") as error:
        export_dataset(tmp_path / "c.parquet", tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    monkeypatch.setenv("HF_TOKEN", "x")
    with pytest.raises(EcglmError, match="may not be passed on"):
        push_dataset(tmp_path / "c.parquet", "me/ecg")
    assert export_dataset(tmp_path / "c.parquet", tmp_path / "out", allow=[corpus]).exists()


def test_what_is_there_is_not_overwritten_unasked(tmp_path, file):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(EcglmError):
            export_dataset(file, mine, overwrite=overwrite)
    assert (mine / "notes.txt").read_text() == "mine"
    export_dataset(file, tmp_path / "out")
    assert export_dataset(file, tmp_path / "out") == tmp_path / "out"  # reused
    write_conversations(tmp_path / "d.parquet", ROWS[:3], {}, {})
    with pytest.raises(StaleOutputError, match="--overwrite"):
        export_dataset(tmp_path / "d.parquet", tmp_path / "out")
    export_dataset(tmp_path / "d.parquet", tmp_path / "out", overwrite=True)
    assert pull_dataset(str(tmp_path / "out"), tmp_path / "b.parquet")["num_conversations"] == 3


def test_a_damaged_dataset_is_refused(tmp_path, file):
    folder = export_dataset(file, tmp_path / "out")
    part = folder / "data" / "train-00000-of-00001.parquet"
    good = part.read_bytes()
    part.write_bytes(good[:-9])
    with pytest.raises(TornOutputError, match="differs from its manifest"):
        pull_dataset(str(folder), tmp_path / "b.parquet")
    part.write_bytes(good)
    (folder / "data" / "train-00001-of-00002.parquet").write_bytes(good)
    with pytest.raises(TornOutputError, match="not in its manifest"):
        pull_dataset(str(folder), tmp_path / "b.parquet")
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "outputs": {"../../c.parquet": "0"}})
    with pytest.raises((UnsafeInputError, TornOutputError)):
        pull_dataset(str(folder), tmp_path / "b.parquet")
    with pytest.raises(EcglmError, match="no data"):
        pull_dataset(str(tmp_path), tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()


def test_a_dataset_of_others_is_checked_row_by_row(tmp_path):
    """No manifest of ours: columns, texts and ids are checked all the same."""
    (tmp_path / "d" / "data").mkdir(parents=True)
    path = tmp_path / "d" / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(EcglmError, match="column 'id' is missing"):
        pull_dataset(str(tmp_path / "d"), tmp_path / "b.parquet")
    path.write_bytes(b"no parquet")
    with pytest.raises(TornOutputError, match="cannot be read"):
        pull_dataset(str(tmp_path / "d"), tmp_path / "b.parquet")


CLIENT = """
import sys
from ecglm.conversations.hub import pull_dataset, push_dataset
from ecglm.errors import EcglmError
try:
    if sys.argv[1] == "push":
        print(push_dataset(sys.argv[2], "me/ecg"))
    else:
        pull_dataset("me/ecg", sys.argv[2])
except EcglmError as error:
    print("REFUSED", error)
"""


def test_pushed_to_a_hub_and_pulled_from_it(tmp_path, file):
    import hub_server

    server, address = hub_server.start()
    try:
        base = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE")}
        base |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

        def client(*args: str, token: str = "hf_right") -> str:
            environment = {**base, **({"HF_TOKEN": token} if token else {})}
            done = subprocess.run(
                [sys.executable, "-c", CLIENT, *args], capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        assert "no HF_TOKEN" in client("push", str(file), token="") and not hub_server.Handler.seen
        told = client("push", str(file), token="hf_wrong")
        assert told.startswith("REFUSED me/ecg: the hub refused") and "\n" not in told and "hf_wrong" not in told
        hub_server.Handler.files["data/train-00007-of-00009.parquet"] = b"of an older push"
        assert "/datasets/me/ecg" in client("push", str(file))
        created = hub_server.Handler.created[-1]
        assert created.get("private", created.get("visibility")) in (True, "private") and created["type"] == "dataset"
        assert set(hub_server.Handler.files) == {
            "README.md",
            "manifest.json",
            *(f"data/{name}-00000-of-00001.parquet" for name in HUB_NAMES),
        }
        hub_server.Handler.files["evil.py"] = b"raise SystemExit"
        assert client("pull", str(tmp_path / "back.parquet")) == ""
        assert sorted(map(repr, read_conversations(tmp_path / "back.parquet"))) == sorted(map(repr, ROWS))
        assert not any("evil.py" in path for method, path, _ in hub_server.Handler.seen if method == "GET")
        assert "REFUSED me/ecg: no such dataset folder" in client("pull", str(tmp_path / "x.parquet"), token="hf_wrong")
        assert manifest_path(tmp_path / "back.parquet").exists()
    finally:
        server.shutdown()
        server.server_close()
