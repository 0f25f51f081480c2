"""Verbs: a trained model that is talked to, in a terminal or by other programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import UseAppendAction

from ecglm.errors import ConfigError, EcglmError
from ecglm.verbs.common import model_name, say

_NAMED = re.compile(r"([A-Za-z0-9][\w.:-]{0,63})=(.+)")


def chat(
    model: Path,
    ecg: UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]] = (),
    rate: float | None = None,
    leads: str | None = None,
    units: Literal["mV", "uV", "V"] | None = None,
    dataset: str | None = None,
    rag: Path | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    history: Literal["own", "none"] = "own",
) -> None:
    """Talk with a trained model about ECGs, in the terminal. For research only.

    Args:
        model: checkpoint folder or hub id.
        ecg: recording, or, for a model of pictures, also a picture of one; give it several times for several ECGs. More
            come in with /ecg FILE.
        rate: samples per second, for files that do not say.
        leads: names of the rows, I,II,III,…, or "standard", for files that do not say.
        units: of the samples, for files that do not say.
        dataset: which one to read of an HDF5 file that holds several.
        rag: an index (ecglm index build); each question tells the model of the training ECGs most like those shown.
        max_new_tokens: longest answer.
        temperature: above 0 draws the words instead of taking the likeliest.
        top_p: draw from the likeliest that together have this probability.
        seed: of the draws.
        history: what the model sees of the talk: the questions and its own answers, or none, each question anew; for a
            model that learned from single questions.
    """
    from ecglm.demo.engine import Engine
    from ecglm.demo.server_ecgs import searcher
    from ecglm.demo.terminal import Terminal, typed
    from ecglm.models.assistant import load
    from ecglm.models.checkpoint import checkpoint_fingerprint
    from ecglm.models.stream import Sampling

    if max_new_tokens < 1:
        raise EcglmError(f"max_new_tokens must be 1 or more, found {max_new_tokens}")
    sampling = Sampling(temperature, top_p, seed) if temperature else None
    assistant = load(model)
    search = searcher(rag, assistant) if rag is not None else None
    _warn_of_rag(model_name(str(model)), assistant, search is not None)
    facts = {"rate": rate, "leads": leads, "units": units, "dataset": dataset}
    with Engine(assistant, max_batch=1) as engine:
        name, remember = model_name(str(model)), history == "own"
        made_by = checkpoint_fingerprint(model)
        terminal = Terminal(
            engine, name, max_new_tokens, sampling, facts, search, history=remember, fingerprint=made_by
        )
        for file in ecg:
            terminal.add(file)
        terminal.run(typed())


def serve(
    model: UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME=]DIR")]],
    host: str = "127.0.0.1",
    port: int = 8000,
    rag: Path | None = None,
    api_key_env: str | None = None,
    max_batch: int = 16,
    max_queue: int = 256,
    max_new_tokens: int = 1024,
    max_request_mb: int = 32,
    timeout: float = 600.0,
    drain: float = 30.0,
) -> None:
    """Answer other programs' questions about ECGs over HTTP, as OpenAI's API does. For research only.

    Args:
        model: checkpoint folder or hub id, under the name that requests use (the folder's own without); give it several
            times for several models.
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: of the server; 0 takes a free one.
        rag: an index (ecglm index build); each model is told of the training ECGs most like those of a request.
        api_key_env: environment variable with the key that requests must bring; they need none without.
        max_batch: answers that a model writes at a time.
        max_queue: requests that wait for a model besides; the next is told to come back (429).
        max_new_tokens: longest answer; a request that asks for more is cut there.
        max_request_mb: largest request.
        timeout: seconds from a request to the end of its answer.
        drain: seconds for answers that are being written when the server is told to end.
    """
    served_by = _server()
    from ecglm.demo.engine import Engine
    from ecglm.demo.server_ecgs import searcher
    from ecglm.models.assistant import load
    from ecglm.models.checkpoint import checkpoint_fingerprint

    if max_new_tokens < 1 or not 1 <= max_request_mb <= 1024 or not 0 <= drain <= 3600:
        raise EcglmError("max_new_tokens must be 1 or more, max_request_mb 1 to 1024, drain 0 to 3600")
    options = served_by.ServerOptions(
        max_body=max_request_mb << 20,
        max_held=max(512, 2 * max_request_mb) << 20,
        max_tokens=max_new_tokens,
        key=_key(api_key_env),
        hosts=served_by.hosts_of(host),
        drain=drain,
    )
    sources = _sources(model)
    place = served_by.bind(host, port)  # told in a moment, before models are read
    models = []
    for name, source in sources.items():
        assistant = load(source)
        search = searcher(rag, assistant) if rag is not None else None
        _warn_of_rag(name, assistant, search is not None)
        engine = Engine(assistant, max_batch=max_batch, max_queue=max_queue, timeout=timeout)
        models.append(served_by.Served(name, engine, search, checkpoint_fingerprint(source)))
    served_by.serve(models, options, place, host, say=say)


def _warn_of_rag(name: str, assistant: Any, given: bool) -> None:
    """Tell where a model is asked otherwise than it was trained."""
    learned = assistant.bundle.rag is not None
    if given and not learned:
        say(
            f"warning: {name} was trained without retrieved ECGs (rag: in its recipe); --rag may make its answers worse"
        )
    elif learned and not given:
        say(
            f"warning: {name} was trained with retrieved ECGs; --rag INDEX gives them, its answers may be worse without"
        )


def _server() -> Any:
    try:
        from ecglm.demo import server_run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(f"ecglm serve needs {error.name}: pip install 'ecglm[serve]'") from error
    return server_run


def _key(variable: str | None) -> str | None:
    from ecglm.evaluation.endpoint_access import read_key

    try:
        return read_key(variable, None)
    except ConfigError as error:
        raise ConfigError(f"--api-key-env: {variable} is not set, or holds no key (no blanks, ASCII only)") from error


def _sources(given: tuple[str, ...]) -> dict[str, str]:
    """name → checkpoint."""
    if not given:
        raise EcglmError("no model; say which with --model DIR")
    found: dict[str, str] = {}
    for text in given:
        named = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, source = (named[1], named[2]) if named else (model_name(text), text)
        if name in found:
            raise EcglmError(f"--model: two models are called {name}; give names, --model NAME=DIR")
        found[name] = source
    return found
