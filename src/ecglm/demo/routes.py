"""What the page fetches beside gradio: scripts, the ECG's picture, neighbours, uploads, the saved talk.

Every route but the scripts asks for a visit's token and for the cookie of the browser that opened it; a picture is
named by numbers of that visit. No path and no address is ever taken from a request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ecglm.demo.export import as_json, as_markdown
from ecglm.demo.house import House, Visit
from ecglm.demo.markup import PAGE_WIDTH
from ecglm.demo.page import HERE, SCRIPTS
from ecglm.demo.shown import layouts
from ecglm.demo.texts import safe_name
from ecglm.demo.uploads import SUFFIXES
from ecglm.errors import EcglmError


def routes(house: House) -> Starlette:
    """The application behind ``doors.OURS``."""
    scripts = {name: (HERE / name).read_bytes() for name in SCRIPTS}

    async def script(request: Request) -> Response:
        body = scripts.get(request.path_params["name"])
        return _missing() if body is None else Response(body, media_type="text/javascript; charset=utf-8")

    def visited(answer: Callable[[Visit, Request], Response]) -> Callable[[Request], Any]:
        async def route(request: Request) -> Response:
            visit = house.by_token(request.query_params.get("talk", ""), request.scope["state"]["cookie"])
            if visit is None:
                return _missing()
            try:
                return await run_in_threadpool(answer, visit, request)
            except EcglmError as error:
                return PlainTextResponse(str(error), status_code=404)

        return route

    async def upload(request: Request) -> Response:
        visit = house.by_token(request.headers.get("x-talk", ""), request.scope["state"]["cookie"])
        if visit is None:
            return PlainTextResponse("this page is no longer connected; load it again", status_code=403)
        return await _upload(house, visit, request)

    return Starlette(
        routes=[
            Route("/ecglm/{name}", script),
            Route("/ecglm/show/picture", visited(_picture)),
            Route("/ecglm/show/neighbour", visited(_neighbour)),
            Route("/ecglm/show/talk", visited(_export)),
            Route("/ecglm/put/upload", upload, methods=["POST"]),
        ]
    )


def _missing() -> Response:
    return PlainTextResponse("not found", status_code=404)


def _number(request: Request, name: str, least: int, most: int) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 6 and least <= int(text) <= most):
        raise EcglmError("not found")
    return int(text)


def _picture(visit: Visit, request: Request) -> Response:
    ecgs = visit.talk.ecgs
    placed = ecgs[_number(request, "ecg", 1, len(ecgs)) - 1]
    layout = request.query_params.get("layout", "")
    if layout not in layouts():
        raise EcglmError("not found")
    marks = request.query_params.get("marks") == "1"
    return Response(placed.shown.page(layout, PAGE_WIDTH, segment=placed.segment, marks=marks), media_type="image/png")


def _neighbour(visit: Visit, request: Request) -> Response:
    found = visit.neighbours.get(_number(request, "ecg", 1, len(visit.talk.ecgs)), [])
    picture = found[_number(request, "number", 0, len(found) - 1)].picture
    return _missing() if picture is None else Response(picture, media_type="image/png")


def _export(visit: Visit, request: Request) -> Response:
    kind = request.query_params.get("as")
    if kind == "json":
        return _saved(as_json(visit.talk), "ecglm-talk.json", "application/json")
    return _saved(as_markdown(visit.talk), "ecglm-talk.md", "text/plain; charset=utf-8")


def _saved(text: str, name: str, kind: str) -> Response:
    return Response(text, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


async def _upload(house: House, visit: Visit, request: Request) -> Response:
    """One file of a visit into its own folder, under a name of ours; the answer is the word to read it by."""
    name = safe_name(unquote(request.headers.get("x-name", ""))[:1000])
    most, told = house.limits.max_bytes, request.headers.get("content-length", str(house.limits.max_bytes))
    if not name.lower().endswith(SUFFIXES):
        return PlainTextResponse(f"{name}: not a kind of file that is read here", status_code=415)
    too_large = PlainTextResponse(f"{name}: larger than {most >> 20} MB", status_code=413)
    if not (told.isascii() and told.isdigit()) or int(told) > most:
        return too_large
    try:
        word, place = await run_in_threadpool(house.place_for, visit, name, int(told))
    except EcglmError as error:
        return PlainTextResponse(str(error), status_code=429)
    size, whole = 0, False
    try:
        with open(place, "xb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    return too_large
                file.write(chunk)
        whole = True
    except (OSError, ClientDisconnect):
        return PlainTextResponse(f"{name}: could not be stored; drop it again", status_code=500)
    finally:
        if not whole:
            visit.uploads.pop(word, None)
            place.unlink(missing_ok=True)
    return PlainTextResponse(word)
