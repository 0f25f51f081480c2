from __future__ import annotations

import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ecglm.downloads import web
from ecglm.downloads.web import Session, check_url
from ecglm.errors import EcglmError, UnsafeInputError


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def text(session, url):
    with session.get(url) as response:
        return response.read()


def test_one_connection_serves_many_files(host):
    session = Session(5)
    for n in range(5):
        assert text(session, host.put(f"/{n}", b"x" * n)) == b"x" * n
    assert host.connections == 1


def test_an_answer_that_was_not_read_is_never_taken_for_the_next(host):
    session = Session(5)
    host.put("/a", b"a" * 500_000)
    host.put("/b", b"b")
    with session.get(host.url + "/a") as response:
        response.read(10)
    assert text(session, host.url + "/b") == b"b"
    assert host.connections == 2


def test_a_connection_closed_meanwhile_is_opened_again(host):
    session = Session(5)
    host.put("/a", b"a")
    assert text(session, host.url + "/a") == b"a"
    next(iter(session._open.values())).sock.shutdown(2)
    assert text(session, host.url + "/a") == b"a"


def test_redirects_are_followed(host):
    host.put("/end", b"here")
    host.plan["/a"] = ["/b"]
    host.plan["/b"] = [host.url + "/end"]
    assert text(Session(5), host.url + "/a") == b"here"


def test_redirects_in_a_ring_end(host):
    host.plan["/a"] = ["/a"] * 100
    with pytest.raises(EcglmError, match="more than 8 redirects"):
        text(Session(5), host.url + "/a")


def test_blanks_and_accents_in_addresses(host):
    host.put("/Patient%27s%20right%20%C3%A4.json", b"x")
    assert text(Session(5), host.url + "/Patient%27s right ä.json") == b"x"


def test_a_public_host_may_not_lead_to_a_private_one(host, monkeypatch):
    """The first hop counts as public; the second is judged by the address it is really connected to."""
    host.put("/secret", b"secret")
    for place in ("127.0.0.1", "localhost"):
        host.plan["/a"] = [f"http://{place}:{host.server.server_port}/secret"]
        calls = []
        real = web._is_private

        def judged(connection, name, calls=calls, real=real):
            calls.append(name)
            return False if len(calls) == 1 else real(connection, name)

        monkeypatch.setattr(web, "_is_private", judged)
        with pytest.raises(UnsafeInputError, match="private address"):
            text(Session(5), host.url + "/a")
        monkeypatch.undo()
    assert host.asked("/secret") == 0


@pytest.mark.parametrize(
    "address, private",
    [
        *[(a, True) for a in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0")],
        *[(a, True) for a in ("::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1")],
        *[(a, False) for a in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")],
    ],
)
def test_which_addresses_are_private(address, private):
    connection = web._new("http", "x", 80, 1)
    connection.through_proxy = True
    assert web._is_private(connection, address) is private


def test_behind_a_proxy_names_of_this_machine_are_private():
    connection = web._new("http", "x", 80, 1)
    connection.through_proxy = True
    assert web._is_private(connection, "localhost")
    assert web._is_private(connection, "metadata.google.internal")
    assert not web._is_private(connection, "physionet.org")


def test_a_proxy_is_asked_the_whole_address(host, monkeypatch):
    monkeypatch.setenv("http_proxy", host.url)
    monkeypatch.setenv("no_proxy", "")
    host.put("http://files.example.org/a", b"through")
    assert text(Session(5), "http://files.example.org/a") == b"through"


def test_from_https_down_to_http_is_refused(host, monkeypatch):
    host.plan["/a"] = ["http://files.example.org/a"]
    plain = web._new

    def unencrypted(scheme, name, port, timeout):
        return plain("http", "127.0.0.1", host.server.server_port, timeout)

    monkeypatch.setattr(web, "_new", unencrypted)
    with pytest.raises(UnsafeInputError, match="from https to http"):
        text(Session(5), "https://files.example.org/a")


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", "http://", "http://u:p@x/", "http://x:99999/", "http://x/\n"],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(UnsafeInputError, match="refuses the address"):
        check_url(url)


@pytest.fixture
def secure(tmp_path, monkeypatch):
    """A host behind https with a certificate of its own, which this test alone trusts; its address."""
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"secure")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://localhost:{server.server_port}/", tmp_path / "cert"
    server.shutdown()
    server.server_close()


def test_https_with_its_certificate_checked(secure, monkeypatch):
    url, certificate = secure
    with pytest.raises(ssl.SSLCertVerificationError):
        text(Session(5), url)
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(web.ssl, "create_default_context", lambda: trusting)
    session = Session(5)
    assert text(session, url) == b"secure"
    assert text(session, url) == b"secure"
    assert next(iter(session._open.values())).peer in ("127.0.0.1", "::1")
