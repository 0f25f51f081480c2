"""The page's HTML: whatever text comes in comes out as text, and what people need is said."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecglm.demo import markup
from ecglm.demo.markup import Bubble, Exchange
from ecglm.demo.measures import Row
from ecglm.demo.neighbours import NeighbourShown

HOSTILE = '<img src=x onerror=alert(1)> <script>x</script> "\' onload=" ![p](http://h/x) [a](javascript:1) `${1}` {{1}}'


class Parsed(HTMLParser):
    """Elements with their attributes, and the text, as a browser would read them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.words = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


@given(st.text())
def test_plain_text_comes_out_as_that_text(text):
    found = Parsed(f"<p>{markup.plain(text)}</p>")
    assert found.elements == [("p", {})]
    quoted = Parsed(f'<p title="{markup.plain(text)}"></p>')
    assert len(quoted.elements) == 1 and set(quoted.elements[0][1]) == {"title"}
    if text.isprintable():
        assert found.text == text and (quoted.elements[0][1]["title"] or "") == text


def test_what_cannot_be_seen_is_made_visible():
    assert markup.plain("\x1b[31mred\x07") == "␛[31mred␇"
    assert markup.plain("a\u202eb\u200b\x9b") == "a‹U+202E›b‹U+200B›‹U+009B›"
    assert markup.plain("one\r\ntwo\tthree\n") == "one\ntwo\tthree\n"


def everything(text):
    bubble = Bubble(text, text, text, "done", "A", 1, text)
    other = Bubble("b", "n", "t", "cut", "B")
    exchange = Exchange(text, (text,), (bubble, other), "A")
    hit = NeighbourShown(text, 1.0, text, (text,), b"png")
    return [
        markup.top([text, text], text),
        markup.drop(text, [text], text, 5),
        markup.status(text, wrong=True),
        markup.table([Row(text, text, text, text), Row("ST I", text, "mV", text)]),
        markup.neighbours(text, 1, [hit]),
        markup.transcript([exchange], rating=True),
        markup.transcript([], rating=True, hint=text),
        markup.exports(text, True),
    ]


def test_hostile_text_makes_the_same_elements_as_a_harmless_word():
    for good, bad in zip(everything("word"), everything(HOSTILE), strict=True):
        one, two = Parsed(good), Parsed(bad)
        assert [tag for tag, _ in one.elements] == [tag for tag, _ in two.elements]
        assert [set(a) for _, a in one.elements] == [set(a) for _, a in two.elements]
        assert not any(name.startswith("on") for _, a in two.elements for name in a)
        for _, attributes in two.elements:
            for name in ("src", "href"):
                assert attributes.get(name, "/ecglm/").startswith("/ecglm/")


def test_the_notice_is_on_the_page_and_is_not_small_print():
    found = Parsed(markup.top(["m"]))
    assert "For research only. Not a medical device" in found.text
    assert any(a.get("role") == "note" for _, a in found.elements)


def test_errors_are_announced_and_nothing_is_an_empty_line():
    assert 'role="alert"' in markup.status("x", wrong=True) and 'role="status"' in markup.status("x")
    assert "eg-none" in markup.status()


def test_measurements_are_headed_by_the_usual_ones_and_leads_stand_together():
    rows = [
        Row("Heart rate", "72", "bpm"),
        Row("PR", "not measured", "", "no P wave found"),
        Row("QRS axis", "40", "°"),
    ]
    rows += [Row("ST I", "+0.02", "mV", "60 ms behind"), Row("ST V1", "-0.10", "mV", "60 ms behind")]
    text = Parsed(markup.table(rows)).text
    assert text.startswith("Measured 72 bpm · axis 40°") and "no P wave found" in text
    assert text.count("60 ms behind") == 1 and "V1" in text and "-0.10" in text
    assert "not measured: a picture" in Parsed(markup.table([Row("M", "not measured", "", "a picture")])).text
    assert markup.table([]) == ""


@pytest.mark.parametrize(
    ("state", "rating", "buttons"), [("done", True, 3), ("done", False, 0), ("writing", True, 0), ("failed", True, 0)]
)
def test_only_a_complete_answer_can_be_rated_and_only_where_ratings_are_kept(state, rating, buttons):
    html = markup.transcript([Exchange("q", (), (Bubble("i", "n", "t", state),))], rating=rating)
    assert len([1 for tag, _ in Parsed(html).elements if tag == "button"]) == buttons


def test_every_button_has_a_name_and_says_whether_it_is_pressed():
    pair = (Bubble("i", "n", "t", side="A", thumb=-1), Bubble("j", "n", "u", side="B"))
    found = Parsed(markup.transcript([Exchange("q", (), pair, "neither")], rating=True))
    buttons = [a for tag, a in found.elements if tag == "button"]
    assert [a["aria-label"] for a in buttons if "aria-label" in a] == [
        f"{what} {side}" for side in "AB" for what in ("Good answer", "Bad answer", "Correct this answer")
    ]
    assert [a["data-act"] for a in buttons if a.get("aria-pressed") == "true"] == ["down", "better"]
    assert all(a["type"] == "button" for a in buttons)


def test_an_empty_answer_says_so_and_a_log_is_a_log():
    html = markup.transcript([Exchange("q", (), (Bubble("i", "n", ""),))], rating=False)
    assert "the model said nothing" in html and 'role="log"' in html and 'aria-live="polite"' in html


def test_a_screen_reader_waits_for_the_whole_answer():
    for state, busy in (("writing", "true"), ("done", "false")):
        found = markup.transcript([Exchange("q", (), (Bubble("1", "m", "a", state),))], rating=False)
        assert f'aria-busy="{busy}"' in found


def _light(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_are_told_apart_as_wcag_asks():
    """WCAG 2.2, 1.4.3: text and its ground differ 4.5 : 1, on the light page and on the dark one."""
    sheet = Path(markup.__file__).with_name("page.css").read_text("utf-8")

    def ratio(one, two):
        low, high = sorted((_light(one), _light(two)))
        return (high + 0.05) / (low + 0.05)

    grounds = {"": "#ffffff", ".dark": "#0f172a"}
    fill = re.search(r"--eg-fill: (#\w{6})", sheet)[1]
    assert ratio("#ffffff", fill) >= 4.5 and not re.search(r"background: var\(--eg-accent\)[^}]*color: #fff", sheet)
    for where, accent in (("", r":root \{ --eg-accent: (#\w{6})"), (".dark", r"\.dark \{ --eg-accent: (#\w{6})")):
        assert ratio(re.search(accent, sheet)[1], grounds[where]) >= 4.5
    pairs = [
        (re.search(r"(?<![-\w])color: (#\w{6})", rule)[1], re.search(r"background: (#\w{6})", rule)[1])
        for rule in re.findall(r"\.eg-(?:notice|wrong) \{([^}]*)\}", sheet)
        if "color: " in rule
    ]
    assert len(pairs) == 4 and all(ratio(*pair) >= 7 for pair in pairs)
