"""HTTP(S) requests by hand: kept-alive connections, proxies, and redirects that cannot lead inside."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

from ecglm.errors import EcglmError, UnsafeInputError

MAX_REDIRECTS = 8
#: What a lost or silent connection raises; a caller may try again.
NETWORK_ERRORS = (http.client.HTTPException, OSError)
_REDIRECTS = (301, 302, 303, 307, 308)


class Session:
    """One thread's connections. ``get`` follows redirects to http and https only, never down from https to http, and
    never from a public host to a private or loopback address (a host that is private itself may redirect among its
    like: a mirror in one's own house).

    timeout: seconds without a byte after which a connection counts as lost.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._open: dict[tuple[str, str, int], _Connection] = {}
        self._private = False  # whether the last other end was a private address

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
        """The response of a GET, redirects followed, whatever its status.

        Raises UnsafeInputError for an address that is refused, and one of NETWORK_ERRORS where the network fails.
        """
        sent = {"User-Agent": "ecglm", "Accept-Encoding": "identity", **(headers or {})}
        place, private = check_url(url), None
        for _ in range(MAX_REDIRECTS):
            key = (place.scheme, place.hostname or "", _port(place))
            response = self._request(key, place, sent, private)
            if private is None:
                private = self._private
            try:
                target = response.getheader("Location", "")
                if response.status not in _REDIRECTS or not target:
                    yield response
                    return
                response.read(1 << 16)
            finally:
                if response.length == 0:
                    response.read()  # after read1, only this notices that the answer is at its end
                if not response.isclosed():  # what was not read to its end would be taken for the next answer
                    self._forget(key)
            with contextlib.suppress(ValueError):  # then it is refused next, as it stands
                target = urljoin(place.geturl(), target)
            following = check_url(target, f"{url}: ")
            if place.scheme == "https" and following.scheme == "http":
                raise UnsafeInputError(f"{url}: redirects from https to http; refused")
            place = following
        raise EcglmError(f"{url}: more than {MAX_REDIRECTS} redirects; the address is wrong or the server broken")

    def _request(
        self, key: tuple[str, str, int], place: SplitResult, headers: Mapping[str, str], private: bool | None
    ) -> http.client.HTTPResponse:
        path = (place.path or "/") + f"?{place.query}" * bool(place.query)
        path = re.sub(r"[^!-~]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), path)
        for fresh in (False, True):
            kept = None if fresh else self._open.get(key)
            connection = kept or self._connect(key)
            self._private = _is_private(connection, key[1])
            if self._private and private is False:
                self._forget(key)
                raise UnsafeInputError(f"{key[1]}: a redirect leads to a private address; refused")
            try:
                asked = f"{place.scheme}://{place.netloc}{path}" if connection.proxied else path
                connection.request("GET", asked, headers=dict(headers))
                return connection.getresponse()
            except NETWORK_ERRORS:
                self._forget(key)
                if kept is None:  # a kept connection may have been closed meanwhile: that is no failure
                    raise
        raise AssertionError("unreachable")

    def _connect(self, key: tuple[str, str, int]) -> _Connection:
        scheme, host, port = key
        proxy = urllib.request.getproxies().get(scheme)
        if proxy and not urllib.request.proxy_bypass(host):
            via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            connection = _new(scheme, via.hostname or "", via.port or 8080, self.timeout)
            if scheme == "https":
                connection.set_tunnel(host, port)
            else:
                connection.proxied = True
            connection.through_proxy = True
        else:
            connection = _new(scheme, host, port, self.timeout)
        connection.connect()
        self._open[key] = connection
        return connection

    def _forget(self, key: tuple[str, str, int]) -> None:
        connection = self._open.pop(key, None)
        if connection is not None:
            connection.close()


class _Connection(http.client.HTTPConnection):
    peer = ""  # the address it is really connected to
    proxied = False  # the whole address is asked of a proxy
    through_proxy = False

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, socket.socket)
        self.peer = str(self.sock.getpeername()[0])


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    pass


def _new(scheme: str, host: str, port: int, timeout: float) -> _Connection:
    if scheme == "https":
        return _SecureConnection(host, port, timeout=timeout, context=ssl.create_default_context())
    return _Connection(host, port, timeout=timeout)


def _port(place: SplitResult) -> int:
    return place.port or (443 if place.scheme == "https" else 80)


def check_url(url: str, context: str = "") -> SplitResult:
    """The parts of an http(s) address; UnsafeInputError for any other scheme, for credentials in it or a bad host."""
    try:
        place = urlsplit(url)
        _ = place.port
    except ValueError as error:
        raise UnsafeInputError(f"{context}refuses the address {url[:200]!r} ({error})") from error
    if place.scheme not in ("http", "https") or not place.hostname:
        raise UnsafeInputError(f"{context}refuses the address {url[:200]!r}; only http and https are fetched")
    if "@" in place.netloc or re.search(r"[\x00-\x1f\x7f]", url):
        raise UnsafeInputError(
            f"{context}refuses the address {url[:200]!r}; it holds credentials or control characters"
        )
    return place


def _is_private(connection: _Connection, host: str) -> bool:
    """Whether the other end, as connected, is no public address. Behind a proxy only the host's name can be judged."""
    if connection.through_proxy:
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
            return True
        address = host
    else:
        if connection.sock is None:  # closed after its last answer; http.client opens it again
            connection.connect()
        address = connection.peer
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return not (mapped or found).is_global
