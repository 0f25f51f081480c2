"""What reaches the page's server: hosts, origins, routes, bodies; a plain application stands behind the doors."""

from __future__ import annotations

import json

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ecglm.demo.doors import COOKIE, MAX_BODY, Doors, Hosts, Tabs, cookie_of, wrong_body

HOST = "127.0.0.1:7860"


@pytest.fixture
def client():
    async def inside(request):
        return PlainTextResponse(f"inside {request.method} {request.url.query} {(await request.body())[:20]!r}")

    async def ours(request):
        return PlainTextResponse(f"ours {request.scope['state']['cookie']}")

    app = Starlette(routes=[Route("/{path:path}", inside, methods=["GET", "POST", "PUT"])])
    own = Starlette(routes=[Route("/ecglm/{path:path}", ours, methods=["GET", "POST"])])
    return TestClient(Doors(app, ours=own, hosts=Hosts()), base_url=f"http://{HOST}")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "192.168.1.5:7860"])
def test_numbers_and_localhost_are_answered(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "", "a b", "x@y:1", "["]
)
def test_another_name_is_refused_so_that_dns_cannot_be_bent_to_this_machine(client, host):
    found = client.get("/", headers={"host": host})
    assert found.status_code == 421 and "inside" not in found.text


def test_a_name_that_was_given_is_answered():
    hosts = Hosts("box.lan")
    assert "box.lan:7860" in hosts and "BOX.lan" in hosts and "other.lan" not in hosts and None not in hosts
    hosts.names.add("abc.gradio.live")
    assert "abc.gradio.live" in hosts


def with_cookie(client):
    client.get("/")
    return client


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://evil.example:7860"]
)
def test_other_origins_are_refused(client, origin):
    found = with_cookie(client).post("/gradio_api/queue/join", json={}, headers={"origin": origin})
    assert found.status_code == 403


def test_cross_site_fetches_are_refused_and_the_page_itself_may_be_opened_from_a_link(client):
    cross = {"sec-fetch-site": "cross-site"}
    assert client.get("/", headers=cross).status_code == 200
    assert client.get("/config", headers=cross).status_code == 403
    assert client.get("/config", headers={"sec-fetch-site": "same-site"}).status_code == 403
    assert client.get("/config", headers={"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://192.0.2.1/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/call/ask",
        "/gradio_api/run/ask",
        "/gradio_api/upload_progress?upload_id=x",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/component_server",
        "/gradio_api/stream/x/y/1/playlist.m3u8",
        "/gradio_api/dev/reload",
        "/gradio_api/token",
        "/monitoring",
        "/docs",
        "/custom_component/x/client/component/index.js",
        "/assets/%2e%2e/config",
        "/static/fonts/../../x",
        "/svelte/x.js",
        "/login",
        "//evil.example/",
        "/config/../monitoring",
    ],
)
def test_what_the_page_does_not_use_is_not_there(client, path):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"):
        assert with_cookie(client).request(method, f"http://{HOST}{path}").status_code in (404, 405), method


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/vibe-edit", "/", "/config"]
)
def test_nothing_else_can_be_posted(client, path):
    assert with_cookie(client).post(path, json={}).status_code == 404


def test_the_cookie_is_needed_to_post_and_cannot_be_read_or_sent_from_elsewhere(client):
    assert client.post("/gradio_api/queue/join", json={}).status_code == 403
    found = client.get("/").headers["set-cookie"]
    assert found.startswith(f"{COOKIE}=") and "HttpOnly" in found and "SameSite=Strict" in found
    assert client.post("/gradio_api/queue/join", json={"data": []}).text.startswith("inside POST")
    assert "set-cookie" not in client.get("/").headers  # it has one
    one, two = (
        cookie_of(TestClient(client.app, base_url=f"http://{HOST}").get("/").headers["set-cookie"]) for _ in "ab"
    )
    assert one != two and len(one) == 43


@pytest.mark.parametrize(
    "header", ["", "a=b", f"{COOKIE}=short", f"{COOKIE}={'x' * 44}", f'{COOKIE}="{"y" * 42};"', "\x00"]
)
def test_what_is_no_cookie_of_ours_is_none(header):
    assert cookie_of(header) == ""


def test_stored_pages_of_others_cannot_be_asked_for(client):
    assert client.get("/?deep_link=abc&view=api").text == "inside GET  b''"


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]},
        {"data": [{"path": "http://169.254.169.254/latest", "meta": {"_type": "gradio.FileData"}}]},
        {"data": [[{"deep": {"url": "http://192.0.2.1/x"}}]]},
        {"data": [{"path": "x"}]},
        {"event_data": {"meta": {}}},
    ],
)
def test_p23_a_body_that_names_a_file_or_an_address_never_reaches_gradio(client, body):
    found = with_cookie(client).post("/gradio_api/queue/join", json=body)
    assert found.status_code == 400 and "inside" not in found.text


def test_a_question_about_such_words_is_a_question():
    assert wrong_body(json.dumps({"data": ['{"path": "/etc/passwd", "meta": {}}', "url"]}).encode()) == ""


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(client, body):
    assert with_cookie(client).post("/gradio_api/queue/join", content=body).status_code == 400


def test_a_body_that_is_too_long_is_refused_however_it_is_sent(client):
    def pieces():
        for _ in range(5):
            yield b'"' + b"x" * (MAX_BODY // 4)

    assert with_cookie(client).post("/gradio_api/queue/join", content=pieces()).status_code == 413


def test_every_answer_tells_the_browser_to_ask_nobody_else(client):
    for path in ("/", "/assets/a.js", "/nothing", "/ecglm/x"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "http" not in policy
        assert headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in policy
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        assert (headers.get("cache-control") == "no-store") == (not path.startswith("/assets"))


def test_our_own_routes_know_the_cookie(client):
    first = client.get("/ecglm/x").text
    assert first.startswith("ours ") and len(first) == 5 + 43
    with_cookie(client)
    assert client.get("/ecglm/x").text == f"ours {client.cookies[COOKIE]}"


def test_web_sockets_are_closed(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/data"):
        pass


def test_events_of_a_tab_are_heard_and_sent_by_the_browser_that_opened_it_alone(client):
    mine, other = with_cookie(client), with_cookie(TestClient(client.app, base_url=f"http://{HOST}"))
    heard, beat = "/gradio_api/queue/data?session_hash=abc", "/gradio_api/heartbeat/abc"
    assert mine.get(heard).status_code == 404  # nothing was sent for it yet
    assert mine.get(beat).status_code == 200
    assert mine.post("/gradio_api/queue/join", json={"session_hash": "abc", "data": []}).status_code == 200
    assert mine.get(heard).status_code == mine.get(beat).status_code == 200
    for path in (heard, beat, heard + "&session_hash=abc", "/gradio_api/queue/data", heard + "&session_hash=x"):
        assert other.get(path).status_code == 404, path
    for path in ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"):
        assert other.post(path, json={"session_hash": "abc", "event_id": "e", "data": []}).status_code == 404
        assert mine.post(path, json={"session_hash": "abc", "event_id": "e", "data": []}).status_code == 200
    assert TestClient(client.app, base_url=f"http://{HOST}").get(heard).status_code == 404  # without a cookie


def test_tabs_are_remembered_up_to_a_number_and_those_in_use_longest():
    tabs = Tabs(most=2)
    assert tabs.claim("a", "one") and tabs.claim("b", "two") and tabs.claim("a", "one") and tabs.claim("c", "three")
    assert not tabs.claim("a", "two") and tabs.claim("b", "new")  # b was used least and is forgotten


def test_an_open_page_can_find_out_that_another_server_has_taken_over(client):
    assert client.get("/gradio_api/app_id").status_code == 200
