from __future__ import annotations

import builtins
import json
import shutil

import pytest

from ecglm.errors import EcglmError
from ecglm.records import marian as module
from ecglm.records.marian import DEFAULT_MODEL, MarianTranslator, _readable, default_cache

GERMAN = {
    "heute unruhig": "restless today",
    "st-senkung Über der brustwand": "st depression over the chest wall",
    "#berleitung besser als gestern": "conduction better than yesterday",
}


@pytest.fixture
def translator(tiny_marian, tmp_path):
    return MarianTranslator(str(tiny_marian), cache=tmp_path / "t.jsonl")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_the_model_has_learnt(translator):
    assert translator.name == "model:tiny-de-en"
    assert translator.translate(list(GERMAN)) == list(GERMAN.values())
    assert translator.translate(["", " "]) == [None, None]


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batches_and_neighbours_change_nothing(tiny_marian, tmp_path, batch_size):
    texts = [*GERMAN, "heute besser", "gestern unruhig", "sinusrhythmus besser", "brustwand"]
    alone = [MarianTranslator(str(tiny_marian), cache=tmp_path / f"{i}").translate([t])[0] for i, t in enumerate(texts)]
    together = MarianTranslator(str(tiny_marian), batch_size, cache=tmp_path / "all")
    assert together.translate([*texts, *texts]) == [*alone, *alone]
    assert len(rows(tmp_path / "all")) == len(texts)


def test_a_text_is_translated_once(tiny_marian, translator, tmp_path, monkeypatch):
    first = translator.translate(list(GERMAN))
    before = translator.cache.read_bytes()
    again = MarianTranslator(str(tiny_marian), cache=translator.cache)
    monkeypatch.setattr(MarianTranslator, "_loaded", property(lambda self: pytest.fail("the model was loaded")))
    assert again.translate(list(GERMAN)) == first
    assert again.cached("heute unruhig") == "restless today"
    assert translator.cache.read_bytes() == before


def test_another_model_has_other_translations(tiny_marian, translator, tmp_path):
    translator.translate(["heute unruhig"])
    shutil.copytree(tiny_marian, tmp_path / "other")
    copy = MarianTranslator(str(tmp_path / "other"), cache=translator.cache)
    assert copy.fingerprint == translator.fingerprint
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text() + "\n")
    changed = MarianTranslator(str(tmp_path / "other"), cache=translator.cache)
    assert changed.fingerprint != translator.fingerprint
    changed.translate(["heute unruhig"])
    assert len(rows(translator.cache)) == 2


def test_a_torn_last_line_is_overlooked_and_mended(tiny_marian, translator):
    translator.translate(["heute unruhig"])
    whole = translator.cache.read_bytes()
    translator.cache.write_bytes(whole + b'{"key": "abc", "engl')
    again = MarianTranslator(str(tiny_marian), cache=translator.cache)
    assert again.translate(list(GERMAN)) == list(GERMAN.values())
    assert translator.cache.read_bytes().startswith(whole)
    assert len(rows(translator.cache)) == 3


def test_a_damaged_cache_is_told(tiny_marian, tmp_path):
    (tmp_path / "t.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(EcglmError, match=r"t.jsonl, line 1: not valid JSON"):
        MarianTranslator(str(tiny_marian), cache=tmp_path / "t.jsonl").translate(["heute"])


def test_progress_now_and_then(translator, monkeypatch, capfd):
    monkeypatch.setattr(module, "LINE_EVERY", -1.0)
    translator.translate(list(GERMAN))
    lines = [line for line in capfd.readouterr().err.splitlines() if "reports translated" in line]
    assert lines[-1] == "model:tiny-de-en: 3/3 reports translated"


def test_the_cache_holds_no_reports(translator):
    """Only translations and checksums: German reports stay where they are."""
    translator.translate(list(GERMAN))
    assert all(set(row) == {"key", "english"} and len(row["key"]) == 64 for row in rows(translator.cache))


def test_long_texts_are_cut_to_what_the_model_reads(translator):
    assert len(translator.translate(["heute unruhig " * 300])) == 1


def test_no_model_there(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(name, **kwargs):
        raise OSError("no connection\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(EcglmError) as error:
        MarianTranslator("Somebody/no-model", cache=tmp_path / "t").translate(["heute"])
    assert "is no folder here and cannot be fetched" in str(error.value)
    assert "keep the reports as they are with translator=phrases" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model(tmp_path, tiny_marian):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EcglmError, match=r"no config.json, so no translation model.*translator=phrases"):
        MarianTranslator(str(tmp_path / "empty"), cache=tmp_path / "t").translate(["heute"])
    shutil.copytree(tiny_marian, tmp_path / "torn")
    (tmp_path / "torn" / "source.spm").unlink()
    with pytest.raises(EcglmError, match="no MarianMT model that can be loaded") as error:
        MarianTranslator(str(tmp_path / "torn"), cache=tmp_path / "t").translate(["heute"])
    assert "\n" not in str(error.value)


def test_without_sentencepiece(translator, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **named):
        if name == "sentencepiece":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EcglmError, match=r"needs sentencepiece: pip install 'ecglm\[translate\]'; or keep"):
        translator.translate(["heute"])


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "ecglm" / "translations.jsonl"
    assert MarianTranslator().name == f"model:{DEFAULT_MODEL}"


@pytest.mark.parametrize(
    "text, readable",
    [
        ("mÖglich f#r #bergang", "möglich für übergang"),
        ("Überleitung schweiß", "überleitung schweiß"),
        ("Ålder ej bestÄmmbar", "ålder ej bestämmbar"),
        ("# 5 V1 ST & T", "# 5 V1 ST & T"),
    ],
)
def test_umlauts_for_the_model(text, readable):
    assert _readable(text) == readable
