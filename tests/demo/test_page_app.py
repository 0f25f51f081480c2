"""The page as a server: what it says, what it refuses, what is left on the disk, and how it starts."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest

from ecglm.demo.app import free_port, open_page
from ecglm.demo.doors import COOKIE
from ecglm.demo.house import House
from ecglm.demo.page import css, head, theme
from ecglm.demo.samples import Samples
from ecglm.demo.talk import ModelName
from ecglm.demo.uploads import Limits
from ecglm.errors import EcglmError
from ecglm.models.assistant import load
from page_world import Parrot

gr = pytest.importorskip("gradio")
ONE, TWO = "a" * 43, "b" * 43


# --- the server


@pytest.fixture(scope="module")
def served(signal_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    assistant = load(signal_run / "best")
    house = House(
        [ModelName("m")],
        [Parrot(assistant)],
        samples=Samples(pipeline=dict(assistant.bundle.pipeline), count=2),
        limits=Limits(max_bytes=100_000),
        root=root,
    )
    with open_page(house, port=0) as address:
        yield SimpleNamespace(address=address.rstrip("/"), house=house, root=root)
    assert list(root.iterdir()) == []


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.address, timeout=20) as found:
        found.get("/")
        yield found


def test_the_page_names_no_server_but_its_own(client):
    page = client.get("/").text
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)[1])
    assert config["analytics_enabled"] is False and config["space_id"] is None
    fetched = re.findall(r"""(?:src|href)=["'](https?:)?//[^"']+""", page)
    assert fetched == [] and "fonts.googleapis" not in page and "cdn" not in page.lower()
    assert "fonts.g" not in client.get("/theme.css").text and "@import" not in client.get("/theme.css").text
    assert not config.get("stylesheets")
    assert all(d["api_visibility"] == "private" for d in config["dependencies"])


def test_files_of_this_machine_cannot_be_read(client, served):
    secret = served.root / "secret.txt"
    secret.write_text("secret words")
    (served.house.sessions.root / "other.npy").write_bytes(b"secret words")
    tries = [
        "/etc/passwd",
        str(secret),
        str(served.house.sessions.root / "other.npy"),
        "../../etc/passwd",
        "secret.txt",
    ]
    for path in tries:
        for route in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/file/",
            "/assets/",
            "/static/",
            "/ecglm/",
            "/svelte/",
        ):
            for spelled in (path, path.replace("/", "%2f"), path.replace(".", "%2e"), f"..%2f{path}"):
                found = client.get(f"{route}{spelled}")
                assert found.status_code in (400, 403, 404) and "secret" not in found.text and "root:" not in found.text
    secret.unlink()


def event(client, served, index, data, tab="probe", **more):
    body = {"data": data, "fn_index": index, "session_hash": tab, "trigger_id": None, **more}
    return client.post("/gradio_api/queue/join", json=body, headers=more.pop("headers", {}))


def test_p23_no_event_takes_a_path_or_an_address(client, served):
    config = client.get("/config").json()
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    away = {"path": "http://192.0.2.1/x", "url": "http://192.0.2.1/x", "meta": {"_type": "gradio.FileData"}}
    for dependency in config["dependencies"]:
        for bad in (file, away, [file], {"a": file}):
            data = [bad] * max(1, len(dependency["inputs"]))
            assert event(client, served, dependency["id"], data).status_code == 400
    assert not (served.house.sessions.root / "gradio").exists() or not any(
        p.is_file() for p in (served.house.sessions.root / "gradio").rglob("*")
    )


def test_uploads_need_the_pages_word_are_limited_and_never_leave_their_folder(client, served):
    visit = served.house.open(client.cookies[COOKIE], "tab")

    def send(name, data=b"x", token=visit.token, **headers):
        told = {"x-talk": token, "x-name": name, **headers}
        return client.post("/ecglm/put/upload", content=data, headers=told)

    good = send("a.npy", b"x" * 100)
    assert good.status_code == 200 and visit.take([good.text])[0].read_bytes() == b"x" * 100
    assert send("a.npy", token="wrong").status_code == 403
    assert send("a.exe").status_code == 415 and send("").status_code == 415
    assert send("a.npy", b"x" * 100_001).status_code == 413

    def pieces():
        yield from [b"x" * 40_000] * 5

    assert send("a.npy", pieces()).status_code == 413
    for name in ("../../evil.npy", "%2e%2e%2fevil.npy", "/etc/evil.npy", "C:\\evil.npy", "..\\evil.npy"):
        word = send(name).text
        place = visit.take([word])[0]
        assert place.is_relative_to(visit.folder) and place.parent.parent == visit.folder and ".." not in place.name
    assert send("a.npy", origin="http://evil.example").status_code == 403
    served.house.close(client.cookies[COOKIE], "tab")
    assert not visit.folder.exists()
    assert send("a.npy").status_code == 403


def test_pictures_and_saved_talks_are_the_visits_own(client, served):
    house = served.house
    visit = house.open(client.cookies[COOKIE], "tab2")
    house.add(visit, house.samples.get("Synthetic 1"))
    own = {"talk": visit.token, "ecg": "1", "layout": "3x4+1", "segment": "0", "marks": "1"}
    found = client.get("/ecglm/show/picture", params=own)
    assert (
        found.status_code == 200
        and found.content.startswith(b"\x89PNG")
        and found.headers["cache-control"] == "no-store"
    )
    for change in (
        {"ecg": "2"},
        {"ecg": "-1"},
        {"ecg": "x"},
        {"ecg": "١"},
        {"layout": "../x"},
        {"talk": "x"},
        {"talk": ""},
    ):
        assert client.get("/ecglm/show/picture", params=own | change).status_code == 404
    saved = client.get("/ecglm/show/talk", params={"talk": visit.token, "as": "json"})
    assert json.loads(saved.text)["ecgs"][0]["number"] == 1 and "attachment" in saved.headers["content-disposition"]
    assert client.get("/ecglm/show/talk", params={"talk": visit.token}).text.startswith("# A talk")
    assert client.get("/ecglm/show/neighbour", params=own | {"number": "0"}).status_code == 404
    with httpx.Client(base_url=served.address) as stranger:
        stranger.get("/")
        assert stranger.get("/ecglm/show/picture", params=own).status_code == 404
        assert stranger.get("/ecglm/show/talk", params={"talk": visit.token}).status_code == 404


def test_another_name_or_origin_is_refused_by_the_running_server(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/config", headers={"origin": "http://evil.example"}).status_code == 403
    for path in ("/docs", "/openapi.json", "/gradio_api/info", "/monitoring", "/gradio_api/openapi.json"):
        assert client.get(path).status_code == 404


def test_scripts_and_style_are_ours_and_fetch_nothing(client):
    for name in ("page.js", "paper.js"):
        found = client.get(f"/ecglm/{name}")
        assert found.status_code == 200 and "javascript" in found.headers["content-type"]
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", found.text)
    assert client.get("/ecglm/handlers.py").status_code == 404
    assert "url(" not in css() and "@import" not in css() and "http" not in head()
    assert theme()._stylesheets == []


# --- starting


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EcglmError, match=r"in use.*--port"):
            free_port("127.0.0.1", taken.getsockname()[1])
    assert free_port("127.0.0.1", 0) > 0
    for host, port, words in (
        ("127.0.0.1", 70000, "65535"),
        ("192.0.2.1", 0, "not an address"),
        ("no.such.host.invalid", 0, "no such host"),
    ):
        with pytest.raises(EcglmError, match=words):
            free_port(host, port)


def test_a_missing_extra_is_one_line(tmp_path):
    code = (
        "import sys\nsys.modules['gradio'] = None\nfrom ecglm.cli import main\n"
        f"sys.exit(main(['demo', '--model', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'ecglm[demo]'" in done.stderr


@pytest.fixture
def make(served, tmp_path):
    return lambda: House(served.house.names, served.house.engines, samples=served.house.samples, root=tmp_path)


def test_the_tunnel_is_opened_only_when_asked_for_and_its_name_alone_is_let_in(make, monkeypatch):
    from gradio import networking

    asked = []

    def tunnel(host, port, *rest):
        asked.append((host, port))
        return "http://abc.gradio.live"

    monkeypatch.setattr(networking, "setup_tunnel", tunnel)
    with open_page(make(), port=0):
        assert asked == []
    with open_page(make(), port=0, share=True) as address:
        assert address == "https://abc.gradio.live/" and len(asked) == 1
        local = f"http://127.0.0.1:{asked[0][1]}/"
        page = httpx.get(local, headers={"host": "abc.gradio.live"})
        assert page.status_code == 200 and not re.findall(r"<script[^>]+src=.https?://", page.text)
        assert httpx.get(local, headers={"host": "other.gradio.live"}).status_code == 421

    def broken(*args):
        raise RuntimeError("no network here")

    monkeypatch.setattr(networking, "setup_tunnel", broken)
    house = make()
    with pytest.raises(EcglmError, match=r"no network here.*stay local"), open_page(house, port=0, share=True):
        pass
    assert not house.sessions.root.exists()


def test_a_server_that_does_not_start_is_one_line(make, monkeypatch):
    """Gradio gives its own server 5 s."""
    from gradio.exceptions import ServerFailedToStartError

    def slow(*args, **options):
        raise ServerFailedToStartError("Server failed to start.\nPlease check that the port is available.")

    monkeypatch.setattr(gr.Blocks, "launch", slow)
    told = r"^the page could not be opened: Server failed.*available\.$"
    with pytest.raises(EcglmError, match=told), open_page(make(), port=0):
        pass


def test_a_tab_that_is_busy_keeps_no_others_upload_waiting(make):
    house = make()
    one, two = house.open(ONE, "t1"), house.open(TWO, "t2")
    waits = threading.Thread(target=house.place_for, args=(one, "a.npy", 1), daemon=True)
    other = threading.Thread(target=house.place_for, args=(two, "b.npy", 1), daemon=True)
    with one.lock:  # as while one of its files is read
        waits.start()
        waits.join(0.1)
        other.start()
        other.join(20)
        assert waits.is_alive() and not one.uploads and len(two.uploads) == 1
    waits.join(20)
    assert len(one.uploads) == 1
    house.sessions.close()
