"""How an event of the page becomes a call about its visit, and an error its one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

#: A part of the page → its new value.
Changes = dict[Any, Any]


def told(method: Callable[..., Changes]) -> Callable[..., Changes]:
    """An event of a visit and the values of its inputs; a user's mistake becomes the page's line."""

    def handler(self: Any, request: gr.Request, *values: Any) -> Changes:
        return self.run(method, request, *values)

    return handler


def told_of(method: Callable[..., Changes]) -> Callable[..., Changes]:
    """The same, for events that bring facts of their own."""

    def handler(self: Any, request: gr.Request, event: gr.EventData, *values: Any) -> Changes:
        return self.run(method, request, event._data if isinstance(event._data, dict) else {}, *values)

    return handler
