"""The demo's page for tests: a house with a real or a scripted model, its server in this process, and Chromium."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecglm.demo.engine import Engine
from ecglm.demo.streams import Stream

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]


class SlowEngine(Engine):
    """The engine itself, with a pause before every token, so that a person could read along."""

    pause = 0.0

    def _round(self) -> None:
        time.sleep(self.pause)
        super()._round()


class Parrot:
    """An engine that says ``say``, or the question again, in pieces, and remembers what it was asked."""

    def __init__(self, assistant: Any, say: str | None = None, pause: float = 0.0) -> None:
        self.assistant, self.say, self.pause = assistant, say, pause
        self.asked: list[SimpleNamespace] = []
        self.streams: list[Stream] = []

    def submit(self, turns: Sequence[Any], ecgs: Sequence[Any], **given: Any) -> Stream:
        stream = Stream((), given.get("listen"))
        self.asked.append(SimpleNamespace(turns=list(turns), ecgs=list(ecgs), **given))
        self.streams.append(stream)
        text = self.say if self.say is not None else turns[-1].text.split("\n", 1)[-1]

        def talk() -> None:
            for at in range(0, len(text), 7):
                if stream.done:
                    return
                stream.give(text[at : at + 7])
                time.sleep(self.pause)
            stream.end("stop")

        threading.Thread(target=talk, daemon=True).start()
        return stream

    def close(self) -> None:
        """Nothing to close."""


def require_browser() -> None:
    """Skip the module, by name, where there is no browser or no gradio; fail where it is required."""
    missing = "" if CHROMIUM.exists() else f"{CHROMIUM} is absent"
    try:
        import gradio  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        missing = str(error)
    if missing and os.environ.get("ECGLM_REQUIRE_BROWSER"):
        pytest.fail(f"ECGLM_REQUIRE_BROWSER is set, and {missing}", pytrace=False)
    if missing:
        pytest.skip(f"browser absent: {missing}", allow_module_level=True)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless, with a profile that is thrown away."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        try:
            yield found
        finally:
            found.close()


class Tab:
    """One tab, and a log of what it asked for and complained of. It is of a browser of its own, with other cookies,
    unless ``context`` is one that is there already (which spares reading the page's scripts anew).
    """

    def __init__(self, chromium: Any, address: str, context: Any = None, **options: Any) -> None:
        self.address = address.rstrip("/")
        self._own = context is None
        self.context = context or chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("dialog", lambda d: (self.complaints.append(f"dialog {d.message}"), d.dismiss()))
        self.page.set_default_timeout(15_000)
        self.page.goto(self.address)
        self.page.wait_for_selector("ecg-drop[talk]")

    def close(self) -> None:
        (self.context if self._own else self.page).close()

    def check(self) -> None:
        """Nothing left this machine, and nothing went wrong."""
        assert self.requests and [u for u in self.requests if not u.startswith((self.address, "data:"))] == []
        assert self.complaints == []

    def drop(self, *files: Any) -> None:
        self.page.locator("ecg-drop input").set_input_files(list(files))

    def sample(self) -> None:
        self.page.get_by_role("button", name="Show sample").click()
        self.paper()

    def paper(self) -> dict[str, Any]:
        """Wait for the ECG's picture; its size and whether ink stands on it."""
        ready = "() => { const i = document.querySelector('ecg-paper')?.shadowRoot?.querySelector('img');"
        self.page.wait_for_function(ready + " return i && i.complete && i.naturalWidth > 0; }")
        script = """() => {
          const img = document.querySelector('ecg-paper').shadowRoot.querySelector('img');
          const canvas = document.createElement('canvas');
          canvas.width = img.naturalWidth; canvas.height = img.naturalHeight;
          const pen = canvas.getContext('2d'); pen.drawImage(img, 0, 0);
          const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
          let dark = 0;
          for (let i = 0; i < data.length; i += 4) if (data[i] < 90 && data[i + 1] < 90 && data[i + 2] < 90) dark++;
          return { width: img.naturalWidth, height: img.naturalHeight, dark, alt: img.alt, src: img.src };
        }"""
        found: dict[str, Any] = self.page.evaluate(script)
        return found

    def ask(self, text: str) -> None:
        box = self.page.locator("#question textarea")
        box.fill(text)
        box.press("Enter")

    def answers(self) -> list[str]:
        return [t.strip() for t in self.page.locator("#talk .eg-model > .eg-text").all_inner_texts()]

    def answered(self, number: int) -> list[str]:
        """Wait until so many answers stand there, complete."""
        script = """n => document.querySelectorAll('#talk .eg-model').length >= n
          && !document.querySelector('#talk .eg-writing')"""
        self.page.wait_for_function(script, arg=number)
        return self.answers()

    def told(self, text: str) -> str:
        """Wait until the page's line says so."""
        line = self.page.locator("#status .eg-status", has_text=text)
        line.wait_for()
        return str(line.inner_text())
