"""Verbs: the chat in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import UseAppendAction

from ecglm.errors import EcglmError
from ecglm.verbs.common import Stores, model_name, say


def demo(
    model: UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR")]],
    store: Stores = (),
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE …]")] = (),
    rag: Path | None = None,
    preferences: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    max_new_tokens: int = 128,
    max_upload_mb: int = 32,
    history: Literal["own", "none"] = "own",
) -> None:
    """Talk with a trained model about ECGs in the browser. For research only.

    Args:
        model: checkpoint folder or hub id; give a second one to compare their answers side by side.
        store: segment stores whose ECGs can be picked as samples, and whose pictures neighbours are shown with;
            synthetic ones are made on the spot without.
        data: conversations that say of which split the stores' ECGs are, where the stores do not.
        rag: an index (ecglm index build); ECGs like the one asked about are shown, and told to the model.
        preferences: JSON lines file for ratings and corrections, which ecglm align reads; none are asked for without.
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: of the page; 0 takes a free one.
        share: also open the page to everybody who knows its address, through gradio's public tunnel.
        max_new_tokens: longest answer.
        max_upload_mb: largest file that can be dropped.
        history: what a model sees of the talk: the questions and its own answers, or none, each question anew; for
            models that learned from single questions.
    """
    from ecglm.demo.app import LOCAL, free_port, need_gradio, open_page, wait

    if not 1 <= len(model) <= 2:
        raise EcglmError("give one model with --model DIR, or two to compare")
    if max_new_tokens < 1 or not 1 <= max_upload_mb <= 1024:
        raise EcglmError("max_new_tokens must be 1 or more, max_upload_mb 1 to 1024")
    need_gradio()  # told in a moment, before models are read
    free_port(host, port)
    house = _house(model, store, data, rag, preferences, max_new_tokens, max_upload_mb, history == "own")
    if host not in (LOCAL, "localhost", "::1"):
        say(f"warning: listening on {host}; whoever reaches this machine can use the page, without a password")
    if share:
        say("warning: --share sends the page, and every ECG dropped on it, through a public server of others")
    with open_page(house, host=host, port=port, share=share) as address:
        say("for research only; not a medical device")
        say(f"open {address}")
        wait(say)


def _house(
    model: tuple[Path, ...],
    store: tuple[Path, ...],
    data: tuple[Path, ...],
    rag: Path | None,
    preferences: Path | None,
    max_new_tokens: int,
    max_upload_mb: int,
    history: bool,
) -> Any:
    from ecglm.conversations.table import read_conversations
    from ecglm.demo.engine import Engine
    from ecglm.demo.house import House
    from ecglm.demo.preferences import PreferenceLog
    from ecglm.demo.samples import Samples
    from ecglm.demo.uploads import Limits
    from ecglm.models.assistant import load
    from ecglm.prompts.retrieved import RagOptions
    from ecglm.retrieval.search import Index
    from ecglm.store.reader import SegmentStore

    stores = [SegmentStore(s) for s in store]
    splits = {ecg: c.split for file in data for c in read_conversations(file) for ecg in c.ecgs}
    log = None if preferences is None else PreferenceLog(preferences)
    index = None if rag is None else Index.load(rag)
    assistants = [load(m) for m in model]
    if index is not None:
        for assistant in assistants:
            (assistant.bundle.rag or RagOptions()).check(index.feature_names, index.has_reports)
    pipeline = dict(assistants[0].bundle.pipeline)
    return House(
        names_of(model),
        [Engine(assistant) for assistant in assistants],
        samples=Samples(stores, pipeline=pipeline, splits=splits),
        index=index,
        log=log,
        limits=Limits(max_bytes=max_upload_mb << 20),
        max_new_tokens=max_new_tokens,
        history=history,
    )


def names_of(models: tuple[Path, ...]) -> list[Any]:
    """Models as the page names them: by the last part of their path that says something, and their fingerprint."""
    from ecglm.demo.talk import ModelName
    from ecglm.models.checkpoint import checkpoint_fingerprint

    found: list[ModelName] = []
    for number, folder in enumerate(models):
        name = model_name(folder)
        if name in [other.name for other in found]:
            name = f"{name} {number + 1}"
        found.append(ModelName(name, checkpoint_fingerprint(folder)))
    return found
