"""The page's HTML: whatever text comes in comes out as text, and what people need is said."""

from __future__ import annotations

from html.parser import HTMLParser

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
