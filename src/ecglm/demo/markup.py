"""The page's own pieces of HTML. Every text of a file, a model or a user goes through ``plain``: shown as typed."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ecglm.demo.measures import NOT_MEASURED, Row
from ecglm.demo.neighbours import NeighbourShown
from ecglm.demo.talk import Placed

NOTICE = "For research only. Not a medical device: do not use it for diagnosis or treatment."
#: Pixels of the ECG's picture; the page scales it, and zooms into it.
PAGE_WIDTH = 1600
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


@dataclass(frozen=True)
class Bubble:
    """One answer as the page shows it. side: A or B where two models answer. state: ``writing``, ``done``, ``stopped``,
    ``cut`` or ``failed``. thumb: 1, -1 or 0. corrected: the user's own text. note: what else to know of it.
    """

    id: str
    name: str
    text: str
    state: str = "done"
    side: str = ""
    thumb: int = 0
    corrected: str = ""
    note: str = ""


@dataclass(frozen=True)
class Exchange:
    """A question and its answers. better: which of two was chosen: ``A``, ``B``, ``both``, ``neither`` or empty."""

    question: str
    ecgs: tuple[str, ...]
    answers: tuple[Bubble, ...]
    better: str = ""


def plain(text: object) -> str:
    """Text as HTML that shows just that text: markup escaped, characters that cannot be seen made visible."""
    shown = _CONTROL.sub(lambda m: _seen(m[0]), str(text).replace("\r\n", "\n"))
    return html.escape(shown, quote=True)


def _seen(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 32 else "␡" if code == 127 else f"‹U+{code:04X}›"


def top(names: Sequence[str], device: str = "") -> str:
    """The bar above: what this is, which models answer, and the notice, which always stays in sight."""
    models = " and ".join(f"<b>{plain(name)}</b>" for name in names)
    return (
        f'<header class="eg-top"><div class="eg-brand">{_PULSE}<h1>ecglm</h1><span class="eg-models">{models}'
        f'{f" · {plain(device)}" if device else ""}</span></div><p class="eg-notice" role="note">{NOTICE}</p></header>'
    )


_PULSE = (
    '<svg width="28" height="22" viewBox="0 0 28 22" fill="none" stroke="currentColor" stroke-width="2.2" '
    'aria-hidden="true"><path d="M1 12h6l2-4 3 11 4-18 3 14 2-3h6"/></svg>'
)


def drop(talk: str, accept: Sequence[str], kinds: str, most: int) -> str:
    """The zone for files. talk: the session's own word, which uploads must show."""
    return (
        f'<ecg-drop talk="{plain(talk)}" accept="{plain(",".join(accept))}" kinds="{plain(kinds)}" '
        f'most="{most:d}"></ecg-drop>'
    )


def status(text: str = "", wrong: bool = False) -> str:
    """One line that says what happened; a screen reader says it too."""
    kind = "eg-wrong" if wrong else "eg-fine"
    role = "alert" if wrong else "status"
    return f'<p class="eg-status {kind if text else "eg-none"}" role="{role}">{plain(text)}</p>'


def paper(talk: str, placed: Placed, *, layout: str, marks: bool) -> str:
    """The ECG as a page to zoom, move and measure."""
    shown = placed.shown
    asked = urlencode(
        {"talk": talk, "ecg": placed.number, "layout": layout, "segment": placed.segment, "marks": int(marks)}
        | {"of": shown.sha256(placed.segment)[:12]}  # another ECG under the same number is another picture
    )
    scale = dict(shown.calibration(layout, PAGE_WIDTH))
    scale.pop("boxes", None)
    kind = "picture" if shown.is_picture else f"12-lead ECG on paper, layout {layout}"
    alt = f"ECG {placed.number}, {shown.name}: {kind}"
    return (
        f'<ecg-paper src="/ecglm/show/picture?{plain(asked)}" alt="{plain(alt)}" '
        f'scale="{plain(json.dumps(scale))}"></ecg-paper>'
    )


def no_paper(pictures: bool) -> str:
    """What stands where the ECG will be."""
    also = " or a picture of one" if pictures else ""
    return (
        f'<div class="eg-empty"><p><b>No ECG yet.</b></p><p>Drop a recording{also} above, or choose a sample. '
        "It appears here as ECG paper that you can zoom and measure.</p></div>"
    )


#: What a recorder prints first: row's name → how it is shortened.
_HEADLINE = {"Heart rate": "", "PR": "PR ", "QRS": "QRS ", "QT": "QT ", "QTc (Bazett)": "QTc ", "QRS axis": "axis "}


def table(rows: Sequence[Row]) -> str:
    """Measurements: the usual ones in one line, all of them when it is opened; those of single leads close together."""
    if not rows:
        return ""
    found = {row.name: row for row in rows}
    first = [
        f"{short}{found[name].value} {found[name].unit}".replace(" °", "°")
        for name, short in _HEADLINE.items()
        if name in found and found[name].value != NOT_MEASURED
    ]
    headline = " · ".join(first) or f"{rows[0].value}: {rows[0].note}"
    leads = [row for row in rows if row.name.startswith("ST ")]
    body = "".join(
        f'<tr><th scope="row">{plain(row.name)}</th><td class="{"eg-no" if row.value == NOT_MEASURED else ""}">'
        f"{plain(row.value)}{f' {plain(row.unit)}' if row.unit else ''}</td>"
        f'<td class="eg-note">{plain(row.note)}</td></tr>'
        for row in rows
        if row not in leads
    )
    by_lead = ""
    if leads:
        pairs = "".join(f"<div><dt>{plain(r.name[3:])}</dt><dd>{plain(r.value)}</dd></div>" for r in leads)
        note = f", {plain(leads[0].note)}" if leads[0].note else ""
        by_lead = f'<p class="eg-sub">ST by lead in mV{note}</p><dl class="eg-leads">{pairs}</dl>'
    return (
        f'<details class="eg-box"><summary>Measured <small>{plain(headline)}</small></summary>'
        f'<div class="eg-table"><table aria-label="Measurements"><tbody>{body}</tbody></table></div>{by_lead}'
        '<p class="eg-sub"><small>Computed from the signal by ecglm, not by the model.</small></p></details>'
    )


def neighbours(talk: str, ecg: int, found: Sequence[NeighbourShown], told: int = 1) -> str:
    """ECGs of the index like ECG number ``ecg``, nearest first. told: the model is told of so many."""
    cards = []
    for number, hit in enumerate(found):
        address = plain("/ecglm/show/neighbour?" + urlencode({"talk": talk, "ecg": ecg, "number": number}))
        picture = (
            f'<a href="{address}" target="_blank" rel="noopener"><img src="{address}" loading="lazy" '
            f'alt="{plain(hit.title)}: 12-lead ECG on paper"></a>'
            if hit.picture is not None
            else ""
        )
        labels = f'<p class="eg-labels">{plain(", ".join(hit.labels))}</p>' if hit.labels and not hit.report else ""
        cards.append(
            f'<li class="eg-card"><h3>{plain(hit.title)} <small>distance {hit.distance:.3g}</small></h3>{picture}'
            f'<p class="eg-text">{plain(hit.report or "no report")}</p>{labels}</li>'
        )
    if not cards:
        return ""
    return (
        '<details class="eg-box" open><summary>Similar ECGs <small>of the training data, nearest first; the model is '
        f"told of {_TOLD.get(told, f'the first {told}')}</small></summary>"
        f'<ol class="eg-cards" tabindex="0" aria-label="Similar ECGs">{"".join(cards)}</ol></details>'
    )


_TOLD = {0: "none", 1: "the first"}
_THUMB = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 11v9H3v-9zM7 11l4-8c1.6 0 2.6 1.2 2.3 2.8L12.8 9H19c1.3 0 '
    '2.2 1.2 1.9 2.4l-1.6 6.9c-.2 1-1.1 1.7-2.1 1.7H7"/></svg>'
)
_STATE = {
    "stopped": "stopped",
    "cut": "longest answer reached",
    "failed": "no answer",
}


def transcript(exchanges: Sequence[Exchange], *, rating: bool, hint: str = "") -> str:
    """The talk so far. rating: whether thumbs and corrections are stored somewhere."""
    if not exchanges:
        return f'<div class="eg-log eg-empty" role="log" aria-label="Talk"><p>{plain(hint)}</p></div>'
    parts = []
    for exchange in exchanges:
        shown = " ".join(f'<span class="eg-chip">{plain(name)}</span>' for name in exchange.ecgs)
        parts.append(
            f'<div class="eg-turn eg-user"><span class="eg-who">You {shown}</span>'
            f'<div class="eg-text" dir="auto">{plain(exchange.question)}</div></div>'
        )
        columns = "eg-pair" if len(exchange.answers) > 1 else "eg-one"
        bubbles = "".join(_bubble(answer, rating, len(exchange.answers) > 1) for answer in exchange.answers)
        parts.append(f'<div class="{columns}">{bubbles}</div>')
        if len(exchange.answers) > 1 and rating and all(a.state in ("done", "cut") for a in exchange.answers):
            parts.append(_better(exchange))
    # A screen reader waits for the whole answer instead of reading every piece again.
    busy = str(any(a.state == "writing" for e in exchanges for a in e.answers)).lower()
    return (
        f'<div class="eg-log" role="log" aria-label="Talk" aria-live="polite" aria-busy="{busy}">{"".join(parts)}</div>'
    )


def _bubble(answer: Bubble, rating: bool, paired: bool) -> str:
    told = f' <small class="eg-state">{_STATE[answer.state]}</small>' if answer.state in _STATE else ""
    told += f' <small class="eg-state">{plain(answer.note)}</small>' if answer.note else ""
    side = f'<span class="eg-side">{plain(answer.side)}</span> ' if answer.side else ""
    text = plain(answer.text) if answer.text or answer.state == "writing" else "<i>(the model said nothing)</i>"
    caret = '<span class="eg-caret" aria-hidden="true"></span>' if answer.state == "writing" else ""
    corrected = (
        '<div class="eg-corrected"><small>Your correction</small>'
        f'<div class="eg-text">{plain(answer.corrected)}</div></div>'
        if answer.corrected
        else ""
    )
    return (
        f'<article class="eg-turn eg-model eg-{plain(answer.state)}" data-answer="{plain(answer.id)}">'
        f'<span class="eg-who">{side}{plain(answer.name)}{told}</span>'
        f'<div class="eg-text" dir="auto">{text}{caret}</div>{corrected}{_acts(answer, rating)}</article>'
    )


def _acts(answer: Bubble, rating: bool) -> str:
    if not rating or answer.state in ("writing", "failed"):
        return ""
    named, side = plain(answer.id), f" {answer.side}" if answer.side else ""
    buttons = ""
    for act, title, on in (("up", "Good answer", answer.thumb > 0), ("down", "Bad answer", answer.thumb < 0)):
        buttons += (
            f'<button type="button" class="eg-{act}" data-act="{act}" data-answer="{named}" '
            f'aria-pressed="{str(on).lower()}" title="{title}" aria-label="{title}{side}">{_THUMB}</button>'
        )
    buttons += (
        f'<button type="button" data-act="correct" data-answer="{named}" aria-label="Correct this answer{side}">'
        "Correct</button>"
    )
    return f'<div class="eg-acts">{buttons}</div>'


def _better(exchange: Exchange) -> str:
    named = plain(exchange.answers[0].id)
    choices = (("A", "Left is better"), ("B", "Right is better"), ("both", "Both good"), ("neither", "Neither"))
    buttons = "".join(
        f'<button type="button" data-act="better" data-answer="{named}" data-choice="{choice}" '
        f'aria-pressed="{str(exchange.better == choice).lower()}">{label}</button>'
        for choice, label in choices
    )
    return f'<div class="eg-better" role="group" aria-label="Which answer is better?">{buttons}</div>'


def exports(talk: str, filled: bool) -> str:
    """Links that save the talk."""
    if not filled:
        return '<p class="eg-exports"></p>'
    links = " ".join(
        f'<a class="eg-link" href="{plain(f"/ecglm/show/talk?talk={quote(talk)}&as={kind}")}" download>{label}</a>'
        for kind, label in (("md", "Save talk as text"), ("json", "as JSON"))
    )
    return f'<p class="eg-exports">{links}</p>'
