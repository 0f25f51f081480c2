from __future__ import annotations

import csv
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm.records.german_phrases import ENGLISH_WORDS, PHRASES
from ecglm.records.translate import (
    PhraseTranslator,
    phrases_fingerprint,
    report_language,
    restore,
    translate_phrases,
)


@pytest.mark.parametrize("language", PHRASES)
def test_tables_are_one_to_one(language):
    table = PHRASES[language]
    assert len({v.casefold() for v in table.values()}) == len(table) > 150
    for phrase, english in table.items():
        assert phrase == phrase.casefold().strip() and english == english.casefold().strip()
        assert english.isascii(), english
        assert "  " not in phrase + english


@pytest.mark.parametrize(
    "report, english",
    [
        ("sinusrhythmus normales ekg", "sinus rhythm normal ecg"),
        ("sinusrhythmus. normales ekg.", "sinus rhythm. normal ecg."),
        ("sinusrhythmus lagetyp normal normales ekg", "sinus rhythm normal axis normal ecg"),
        ("sinusrhythmus linkstyp sonst normales ekg", "sinus rhythm leftward axis otherwise normal ecg"),
        ("sinusrhythmus ueberdrehter linkstyp linksanteriorer hemiblock",
         "sinus rhythm left axis deviation left anterior fascicular block"),
        ("sinusbradykardie steiltyp", "sinus bradycardia vertical axis"),
        ("sinusrhythmus qrs(t) abnormal    inferiorer infarkt     wahrscheinlich alt",
         "sinus rhythm abnormal qrs(t)    inferior infarct     probably old"),
        ("sinusrhythmus t abnormal, wahrscheinlich    inferiorer myokardschaden nicht auszuschliessen",
         "sinus rhythm abnormal t, probably    inferior myocardial damage cannot be excluded"),
        ("ventrikulÄre extrasystole(n) sinusrhythmus", "ventricular extrasystole(s) sinus rhythm"),
        ("sinusrhythmus r-s #bergang in v ableitungen nach rechts verschoben",
         "sinus rhythm r-s transition zone in v leads displaced to the right"),
        ("sinusrhythmus a-v block i", "sinus rhythm first degree a-v block"),
        ("tachykardes vorhofflimmern 140/min st-senkung in v4-6", None),
        ("tachykardes vorhofflimmern st-senkung in v4-6, ii, avf",
         "tachycardic atrial fibrillation st depression in v4-6, ii, avf"),
        ("sinusrytm vÄnster el-axel avvikande qrs(t) fÖrlopp    inferior infarkt     Ålder ej bestÄmmbar",
         "sinus rhythm leftward axis abnormal qrs(t) contour    inferior infarct     age undeterminable"),
        ("sinusrhythmus normales ekg Edit: NORM 100, (NORM 50)", "sinus rhythm normal ecg Edit: NORM 100, (NORM 50)"),
        ("sinusrhythmus normales ekg und heute", None),
        ("sinusrhythmus normales ekgs", None),
        ("xsinusrhythmus normales ekg", None),
        ("sinusrhythmus inferiorer inf", None),
        ("sinus rhythm. normal ecg.", None),
        *(("", None), ("   ", None), ("17", None)),
    ],
)  # fmt: skip
def test_reports(report, english):
    assert translate_phrases(report) == english
    assert PhraseTranslator().translate([report, report]) == [english, english]
    if english is not None:
        assert restore(english, report_language(report)) == report


def test_small_umlauts_are_the_same_words():
    assert translate_phrases("ventrikuläre extrasystole(n) Sinusrhythmus") == "ventricular extrasystole(s) sinus rhythm"


def test_an_infarct_is_never_excluded_nor_made_sure_by_a_slip():
    """What changes the meaning most: doubt, absence, side."""
    for place in ("inferiorer", "anteroseptaler", "lateraler"):
        sure, doubt, maybe = (
            translate_phrases(f"sinusrhythmus {place} infarkt{tail}")
            for tail in ("", " nicht auszuschliessen", " möglich")
        )
        assert len({sure, doubt, maybe}) == 3
        assert "cannot be excluded" in doubt and "possible" in maybe and "infarct" in sure
    for german, english in PHRASES["de"].items():
        for word, side in (("links", "left"), ("rechts", "right")):
            if german.startswith(word) or f" {word}" in german:
                assert side in english, german
        assert ("unvollständig" in german or "inkomplett" in german) == ("incomplete" in english), german
        assert ("nicht" in german) == ("cannot" in english or "indeterminate" in english), german
    for swedish, english in PHRASES["sv"].items():
        assert ("vänster" in swedish) == ("left" in english), swedish
        assert bool(re.search("höger|hgersidigt", swedish)) == ("right" in english), swedish  # one is a misprint


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_row_of_statements_comes_back(data):
    language = data.draw(st.sampled_from(sorted(PHRASES)))
    phrases = data.draw(st.lists(st.sampled_from(sorted(PHRASES[language])), min_size=1, max_size=8))
    gaps = data.draw(st.lists(st.sampled_from([", ", ". ", ",    ", ", v1-6, "]), min_size=8, max_size=8))
    text = "".join(p + g for p, g in zip(phrases, gaps, strict=False)).strip()
    english = translate_phrases(text)
    if report_language(text) == language:  # told apart by a comma, every statement is itself
        assert english == "".join(PHRASES[language][p] + g for p, g in zip(phrases, gaps, strict=False)).strip()
        assert restore(english, language).casefold() == text.casefold()


@given(st.lists(st.sampled_from(sorted(PHRASES["de"])), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_row_that_could_be_read_in_two_ways_is_left_alone(phrases):
    text = " ".join(phrases)
    english = translate_phrases(text)
    assert english is None or restore(english, "de").casefold() == text


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_is_answered(text):
    english = translate_phrases(text)
    assert english is None or restore(english, report_language(text)).casefold() == text.casefold()


@pytest.mark.parametrize(
    "text, language",
    [
        ("sinusrhythmus normales ekg", "de"),
        ("sinusrytm normalt ekg", "sv"),
        ("sinus rhythm. normal ecg.", "en"),
        ("sinus arrhythmie sonst normales ekg", "de"),
        ("trace only requested.", "en"),
        ("sinus rhythm. normal ecg. Edit: NORM 100, rSIII,aVF(NORM 100)", "en"),
        ("sinus rhythm. normal ecg. Edit: NORM 100, schlechte Qualität", ""),
        ("lorem ipsum dolor sit amet", ""),
        *(("", ""), (" ", ""), ("123 iii avf", ""), ("v1-6", "")),
    ],
)
def test_languages(text, language):
    assert report_language(text) == language


def test_the_fingerprint_is_of_the_tables():
    assert re.fullmatch("[0-9a-f]{64}", phrases_fingerprint())
    assert not {"sinusrhythmus", "sinusrytm", "ekg"} & ENGLISH_WORDS


@pytest.mark.realdata
def test_real_reports(ptb_xl):
    """Share of the 782 reports that are English or become so, and that each comes back as it was."""
    with open(ptb_xl / "ptbxl_database.csv", newline="", encoding="utf-8") as handle:
        reports = [row["report"] for row in csv.DictReader(handle)]
    translated = {t: e for t in set(reports) if (e := translate_phrases(t)) is not None}
    for text, english in translated.items():
        assert restore(english, report_language(text)) == text
        assert english.isascii()
    count = sum(t in translated or report_language(t) == "en" for t in reports)
    assert (len(reports), count) == (782, 750)
