"""The encoding track: parts that tile every lead, colours that tell neighbours apart, and pixels that show both."""

import csv
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ecglm.analysis.results import save_figure
from ecglm.analysis.tracks import draw_track, palette, track, track_colours, write_track
from ecglm.errors import EcglmError
from ecglm.representations.ecg_byte import EcgByte

LEADS = ("I", "V1", "V6")


def ecg(seed=0, num_samples=150):
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples)
    x = 0.03 * np.cumsum(rng.normal(size=(3, num_samples)), axis=-1)
    return (x + 1.2 * np.exp(-(((t % 60) - 30) ** 2) / 8)).astype(np.float32)


@pytest.fixture(scope="module", params=["none", "lead"])
def encoded(request):
    tokenizer = EcgByte.train([ecg(i) for i in range(8)], 80, boundary=request.param)
    segment = ecg(20)
    tokens = tokenizer.encode(segment)
    return tokenizer, segment, tokens, track(tokenizer, tokens, LEADS)


def test_d18_parts_tile_every_lead_and_spell_its_symbols(encoded):
    tokenizer, segment, tokens, parts = encoded
    symbols = tokenizer.symbolise(segment)[0]
    for row, lead in enumerate(LEADS):
        here = [p for p in parts if p.lead == lead]
        assert here[0].start == 0 and here[-1].end == segment.shape[1]
        assert all(a.end == b.start for a, b in pairwise(here))
        assert "".join(p.text for p in here).encode() == symbols[row].tobytes()
        assert all(len(p.text) == p.end - p.start for p in here)
    assert sorted({p.token for p in parts}) == list(range(len(tokens)))
    assert all(tokens.ids[p.token] == p.id for p in parts)


def test_a_token_that_crosses_leads_has_a_part_on_each():
    tokenizer = EcgByte([[97, 97], [256, 256], [257, 257], [258, 258]])  # aaaaaaaaaaaaaaaa
    tokens = tokenizer.encode(np.zeros((3, 6), np.float32))
    assert tokens.ids.tolist() == [259, 256]
    parts = track(tokenizer, tokens, LEADS)
    assert [(p.token, p.id, p.lead, p.start, p.end) for p in parts] == [
        (0, 259, "I", 0, 6),
        (0, 259, "V1", 0, 6),
        (0, 259, "V6", 0, 4),
        (1, 256, "V6", 4, 6),
    ]
    with pytest.raises(EcglmError, match="3 leads, 2 names"):
        track(tokenizer, tokens, LEADS[:2])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=400))
def test_neighbours_differ_and_a_token_has_one_colour(sequence):
    colours = track_colours(np.array(sequence))
    assert set(colours) == set(sequence)
    assert all(colours[a] != colours[b] for a, b in pairwise(sequence) if a != b)


def test_most_tokens_keep_their_own_colour():
    rng = np.random.default_rng(0)
    sequence = rng.zipf(1.4, 1000) % 3000
    colours = track_colours(sequence)
    assert np.mean([colours[i] == i % 20 for i in set(sequence.tolist())]) > 0.7


def test_colours_are_many_and_dark_enough_for_white_paper():
    shades = np.array([palette(n) for n in range(200)])
    assert len(np.unique(np.round(shades * 255), axis=0)) == 200
    assert (shades @ [0.2126, 0.7152, 0.0722]).max() < 0.55
    first = shades[:20]
    distance = np.linalg.norm(first[:, None] - first[None], axis=2) + 9 * np.eye(20)
    assert distance.min() > 0.12


def test_the_picture_shows_each_token_in_its_colour_where_it_lies(encoded):
    _, segment, tokens, parts = encoded
    figure = draw_track(segment, parts, LEADS, 100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    colours = track_colours(tokens.ids)
    checked = 0
    for panel, lead in zip(figure.axes, LEADS, strict=True):
        low, high = panel.get_ylim()
        for p in (p for p in parts if p.lead == lead and p.end - p.start > 3):
            x, y = panel.transData.transform(((p.start + p.end) / 200, low + 0.07 * (high - low)))
            found = pixels[pixels.shape[0] - 1 - int(y), int(x)] / 255
            np.testing.assert_allclose(found, palette(colours[p.id]), atol=0.02)
            checked += 1
    assert checked > 15


def test_one_sample_per_lead_can_be_drawn(tmp_path):
    tokenizer = EcgByte([])
    x = np.array([[0.0], [1.0], [0.5]], np.float32)
    tokens = tokenizer.encode(x)
    for name in ("a", "b"):
        save_figure(draw_track(x, track(tokenizer, tokens, LEADS), LEADS, 100), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_as_csv_and_json(tmp_path, encoded):
    parts = encoded[3]
    write_track(tmp_path / "t.csv", parts)
    write_track(tmp_path / "t.json", parts)
    with open(tmp_path / "t.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows == [{k: str(v) for k, v in row.items()} for row in json.loads((tmp_path / "t.json").read_text())]
    assert [(int(r["id"]), r["lead"], int(r["start"]), int(r["end"]), r["text"]) for r in rows] == [
        (p.id, p.lead, p.start, p.end, p.text) for p in parts
    ]
    with pytest.raises(EcglmError, match=r"\.csv or \.json"):
        write_track(tmp_path / "t.txt", parts)
