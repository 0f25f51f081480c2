"""Who may be asked, and with which key: addresses that are refused, keys that nobody else may read."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from ecglm.errors import ConfigError, UnsafeInputError


def check_address(base_url: str, allow_http: bool) -> None:
    """UnsafeInputError for an address with credentials, no http(s), or unencrypted to another machine."""
    try:
        place = urlsplit(base_url)
        _ = place.port
        (place.hostname or "").encode("idna")  # as it is when the name is looked up
    except ValueError as error:
        raise UnsafeInputError(f"--base-url: refuses an address that cannot be read ({error})") from error
    if "@" in place.netloc:
        raise UnsafeInputError("--base-url: holds credentials; put the key into an environment variable")
    if place.scheme not in ("http", "https") or not place.hostname or place.query or place.fragment:
        raise UnsafeInputError(f"--base-url: refuses {base_url[:200]!r}; http(s)://HOST/PATH is needed, no '?', no '#'")
    if place.scheme == "http" and not allow_http and not is_loopback(base_url):
        raise UnsafeInputError(
            f"--base-url: {place.hostname} over http would send the key and the texts in the clear; "
            "use https, or --allow-http in a network you trust"
        )


def is_loopback(url: str) -> bool:
    """Whether an address names this very machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(key_env: str | None, key_file: Path | None) -> str | None:
    """The key, or None where none is asked for. It is never part of an error."""
    if key_file is not None:
        key, place = _private_text(key_file), str(key_file)
    elif key_env is None:
        return None
    else:
        key, place = os.environ.get(key_env, ""), key_env
    key = key.strip()
    if not key:
        raise ConfigError(
            f"no key: {place} is empty or not set; set it, or say --key-env none for a server that asks for none"
        )
    if not key.isascii() or not key.isprintable() or " " in key or len(key) > 8192:
        raise ConfigError(f"the key in {place} holds characters that no key has (a blank, a line end?)")
    return key


def _private_text(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"--key-file {path}: cannot be read ({error.strerror})") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UnsafeInputError(f"--key-file {path}: is no plain file")
        if found.st_mode & 0o077:
            raise UnsafeInputError(f"--key-file {path}: others may read it; chmod 600 it")
        return os.read(handle, 16384).decode(errors="replace")
    finally:
        os.close(handle)
