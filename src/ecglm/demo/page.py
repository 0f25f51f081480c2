"""The page's layout: which parts it has, where they stand, and which handler each event calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ecglm.demo import markup
from ecglm.demo.shown import layouts

HERE = Path(__file__).parent
#: Files of the page, served from here by ``demo/routes.py``.
SCRIPTS = ("page.js", "paper.js")
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
#: gradio's own HTML part tells Python what was clicked or dropped in it; the words are those of the handlers.
_CLICKS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) trigger("select", { act: button.dataset.act, answer: button.dataset.answer || "",
    choice: button.dataset.choice || "" });
});
const box = element.closest("#talk") || element;
let follow = true, turns = 0, pressed = null;
box.addEventListener("scroll", () => { follow = box.scrollHeight - box.scrollTop - box.clientHeight < 60; });
element.addEventListener("focusin", (event) => { pressed = event.target.closest("[data-act]"); });
watch("value", () => {
  // Who reads further up is left there, until something new is asked; who used a button by keyboard stays on it.
  const now = element.querySelectorAll(".eg-user").length;
  if (follow || now !== turns) box.scrollTop = box.scrollHeight;
  turns = now;
  if (!pressed || (document.activeElement !== document.body && element.contains(document.activeElement))) return;
  if (document.activeElement !== document.body) { pressed = null; return; }
  const { act, answer, choice } = pressed.dataset;
  const same = [...element.querySelectorAll("[data-act]")].find((n) =>
    n.dataset.act === act && n.dataset.answer === answer && n.dataset.choice === choice);
  if (same) same.focus({ preventScroll: true });
});
"""
_FILES = """
element.addEventListener("ecg-files", (event) => trigger("upload", event.detail));
"""


def theme() -> Any:
    """System fonts and one calm accent; nothing is fetched."""
    sizes = gr.themes.sizes
    look = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=list(SYSTEM_FONTS),
        font_mono=list(MONO_FONTS),
        spacing_size=sizes.spacing_sm,
        radius_size=sizes.radius_md,
    )
    return look.set(
        block_border_width="0px",
        block_padding="0px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width_dark="0px",
        button_primary_background_fill_dark="#0f766e",
        form_gap_width="10px",
        input_background_fill="*background_fill_primary",
        input_border_width="1px",
        input_border_color="*neutral_500",
        checkbox_border_color="*neutral_500",
        block_label_text_color="*neutral_700",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
        button_large_padding="8px 14px",
        button_large_text_size="15px",
        button_large_text_weight="600",
        button_secondary_background_fill="*background_fill_primary",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_border_color="*neutral_300",
        button_border_width="1px",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_text_color="white",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_text_color="white",
    )


def head() -> str:
    """What stands in the page's head: our own scripts, and no search engine."""
    scripts = "".join(f'<script defer src="/ecglm/{name}"></script>' for name in SCRIPTS)
    return f'<meta name="robots" content="noindex"><meta name="description" content="ecglm demo">{scripts}'


def css() -> str:
    """The page's own style sheet."""
    return (HERE / "page.css").read_text("utf-8")


def build(handlers: Any, *, names: Sequence[str], samples: Sequence[tuple[str, str]], note: str = "") -> gr.Blocks:
    """The page as gradio's Blocks. names: of the models. samples: what is listed, and the title it is known by."""
    paired, rating, pictures = len(names) > 1, handlers.rating, handlers.pictures
    with gr.Blocks(title="ecglm", analytics_enabled=False, fill_width=True) as page:
        part: dict[str, Any] = {}
        html = lambda **given: gr.HTML(apply_default_css=False, padding=False, **given)  # noqa: E731
        html(value=markup.top(names, note), elem_id="top")
        with gr.Row(elem_id="board", equal_height=False):
            with gr.Column(scale=7, min_width=320, elem_id="left"):
                with gr.Row(elem_id="samples"):
                    part["drop"] = html(elem_id="drop", js_on_load=_FILES)
                    part["sample"] = gr.Dropdown(
                        list(samples),
                        value=samples[0][1] if samples else None,
                        label="Sample ECGs",
                        scale=3,
                        min_width=150,
                        visible=bool(samples),
                    )
                    part["pick"] = gr.Button("Show sample", scale=0, min_width=130, size="md", visible=bool(samples))
                with gr.Column(visible=False, elem_id="facts") as part["facts"]:
                    with gr.Row():
                        part["rate"] = gr.Textbox(label="Sampling rate (Hz)", max_length=20, min_width=120)
                        part["leads"] = gr.Textbox(
                            label="Leads, in order",
                            placeholder="standard, or I,II,III,…",
                            max_length=200,
                            min_width=200,
                        )
                        part["units"] = gr.Dropdown(
                            [("not said", ""), "mV", "uV", "V"], value="", label="Units", min_width=110
                        )
                    part["read"] = gr.Button("Read the file so", variant="primary")
                part["status"] = html(value=markup.status(), elem_id="status")
                part["ecgs"] = gr.Radio(label="ECGs in this talk", visible=False, elem_id="ecgs")
                with gr.Row(elem_id="view", visible=False) as part["view"]:
                    part["layout"] = gr.Dropdown(list(layouts()), value=layouts()[0], label="Layout", min_width=110)
                    part["segment"] = gr.Dropdown(label="Part", min_width=110, visible=False)
                    part["marks"] = gr.Checkbox(label="Marks of P, QRS, T", min_width=130)
                    part["remove"] = gr.Button("Remove ECG", scale=0, min_width=130, size="md")
                part["table"] = html(elem_id="table")  # above the paper, as a recorder prints it
                part["paper"] = html(value=markup.no_paper(pictures), elem_id="paper")
                part["neighbours"] = html(elem_id="neighbours")
            with gr.Column(scale=5, min_width=320, elem_id="right"):
                part["talk"] = html(
                    value=markup.transcript([], rating=rating, hint=handlers.hint), elem_id="talk", js_on_load=_CLICKS
                )
                with gr.Column(visible=False, elem_id="correcting") as part["correcting"]:
                    part["correction"] = gr.Textbox(
                        label="What the answer should have been", lines=3, max_length=8000, elem_id="correction"
                    )
                    with gr.Row():
                        part["save"] = gr.Button("Save correction", variant="primary", min_width=120)
                        part["leave"] = gr.Button("Cancel", min_width=90)
                part["question"] = gr.Textbox(
                    label="Question", placeholder="What is the rhythm?", lines=1, max_lines=6, max_length=8000,
                    elem_id="question",
                )  # fmt: skip
                with gr.Row(elem_id="asking"):
                    part["ask"] = gr.Button("Ask", variant="primary", min_width=90, elem_id="ask")
                    part["stop"] = gr.Button("Stop", variant="stop", min_width=90, elem_id="stop", visible=False)
                    part["again"] = gr.Button("Try again", min_width=90, elem_id="again")
                    part["clear"] = gr.Button("Clear all", min_width=90, elem_id="clear")
                part["keep"] = gr.Checkbox(
                    label="Keep a copy of an ECG that I dropped with my ratings", visible=rating, elem_id="keep"
                )
                part["exports"] = html(elem_id="exports")
        _connect(page, handlers, part, paired)
    return page


def _connect(page: gr.Blocks, handlers: Any, part: dict[str, Any], paired: bool) -> None:
    """Every event is the page's own: no name to call it by from outside, none waits for another's."""
    handlers.part = part
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    every = list(part.values())
    view = [part["ecgs"], part["layout"], part["segment"], part["marks"]]
    page.load(handlers.open, None, every, **quiet)
    part["drop"].upload(handlers.files, None, every, **quiet)
    gr.on(
        [part["read"].click, part["rate"].submit, part["leads"].submit],
        handlers.files_again, [part["rate"], part["leads"], part["units"]], every, **quiet,
    )  # fmt: skip
    part["pick"].click(handlers.pick, [part["sample"]], every, **quiet)
    part["ecgs"].input(handlers.switch, [part["ecgs"]], every, **quiet)
    gr.on([part["layout"].input, part["marks"].input], handlers.show, view, every, **quiet)
    part["segment"].input(handlers.show, view, every, **quiet)
    part["remove"].click(handlers.remove, None, every, **quiet)
    gr.on(
        [part["ask"].click, part["question"].submit],
        handlers.ask,
        [part["question"]],
        every,
        trigger_mode="multiple",
        **quiet,
    )
    part["again"].click(handlers.again, None, every, **quiet)
    part["stop"].click(handlers.stop, None, every, **quiet)
    part["clear"].click(handlers.clear, None, every, **quiet)
    part["talk"].select(handlers.act, [part["keep"]], every, **quiet)
    gr.on([part["save"].click], handlers.correct, [part["correction"], part["keep"]], every, **quiet)
    part["leave"].click(handlers.leave, None, every, **quiet)
    page.unload(handlers.close)
