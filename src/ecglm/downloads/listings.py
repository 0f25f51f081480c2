"""Which files a dataset has, where they lie and what their checksums are, as its host says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ecglm.downloads.archives import check_member_name
from ecglm.downloads.fetch import RemoteFile
from ecglm.errors import EcglmError

#: ``read(url, max_bytes)`` → bytes: how a listing asks its host.
Read = Callable[[str, int], bytes]
_MAX_JSON = 64 << 20
_MAX_SUMS = 1 << 30


@dataclass(frozen=True)
class PhysioNet:
    """A project of physionet.org: single files with ``SHA256SUMS.txt``, or all of it as ``zip_name`` where given."""

    project: str
    version: str
    zip_name: str = ""
    host: str = "https://physionet.org"

    def whole(self, base: str | None) -> RemoteFile | None:
        """The official zip of everything; what lies in it is checked against the checksums inside it."""
        if not self.zip_name:
            return None
        name = f"{self.zip_name}-{self.version}.zip"
        return RemoteFile(name, f"{base or self.host}/static/published-projects/{self.project}/{name}")

    def files(self, base: str | None, read: Read) -> list[RemoteFile]:
        """Every file that ``SHA256SUMS.txt`` names."""
        top = f"{base or self.host}/files/{self.project}/{self.version}"
        sums = f"{top}/SHA256SUMS.txt"
        listed = parse_sha256sums(read(sums, _MAX_SUMS).decode("utf-8", "replace"), sums)
        return [RemoteFile(n, f"{top}/{quote(n)}", None, ("sha256", digest)) for n, digest in sorted(listed.items())]


@dataclass(frozen=True)
class Zenodo:
    """A record of zenodo.org, with sizes and md5."""

    record: int
    host: str = "https://zenodo.org"

    def files(self, base: str | None, read: Read) -> list[RemoteFile]:
        """Every file of the record."""
        url = f"{base or self.host}/api/records/{self.record}"
        found = []
        for item in _list(_json(url, read), "files", url):
            name, digest = _text(item, "key", url), _text(item, "checksum", url).removeprefix("md5:")
            place = f"{url}/files/{quote(name, safe='')}/content"
            found.append(RemoteFile(check_member_name(url, name), place, _size(item, url), _md5(digest, url)))
        return sorted(found, key=lambda f: f.name)


@dataclass(frozen=True)
class Figshare:
    """A collection of figshare.com, with sizes and md5."""

    collection: int
    host: str = "https://api.figshare.com"
    files_host: str = "https://ndownloader.figshare.com"

    def files(self, base: str | None, read: Read) -> list[RemoteFile]:
        """Every file of every article of the collection."""
        api = f"{base or self.host}/v2"
        articles: list[Any] = []
        for page in range(1, 101):
            url = f"{api}/collections/{self.collection}/articles?page={page}&page_size=100"
            answer = _json(url, read)
            if not isinstance(answer, list):
                raise EcglmError(f"{url}: a list of articles is expected; the service has changed")
            articles += answer
            if len(answer) < 100:
                break
        found = []
        for article in articles:
            url = f"{api}/articles/{_number(article, 'id', api)}"
            for item in _list(_json(url, read), "files", url):
                name = check_member_name(url, _text(item, "name", url))
                place = f"{base or self.files_host}/files/{_number(item, 'id', url)}"
                digest = _text(item, "computed_md5", url)
                found.append(RemoteFile(name, place, _size(item, url), _md5(digest, url)))
        return sorted(found, key=lambda f: f.name)


@dataclass(frozen=True)
class GitHub:
    """A repository of github.com at one commit: as an archive, or single files of it. It publishes no checksums."""

    repository: str
    revision: str
    paths: tuple[str, ...] = ()
    host: str = "https://github.com"
    raw_host: str = "https://raw.githubusercontent.com"

    def files(self, base: str | None, read: Read) -> list[RemoteFile]:
        """The archive, or the named files."""
        if not self.paths:
            name = f"{self.repository.rpartition('/')[2]}.zip"
            return [RemoteFile(name, f"{base or self.host}/{self.repository}/archive/{self.revision}.zip")]
        top = f"{base or self.raw_host}/{self.repository}/{self.revision}"
        return [RemoteFile(path.rpartition("/")[2], f"{top}/{quote(path)}") for path in self.paths]


@dataclass(frozen=True)
class HuggingFace:
    """A dataset repository of huggingface.co, with sizes and sha256 (git's sha1 for small files)."""

    repository: str
    host: str = "https://huggingface.co"

    def files(self, base: str | None, read: Read) -> list[RemoteFile]:
        """Every file of the main branch, at the commit it now has."""
        top = base or self.host
        url = f"{top}/api/datasets/{self.repository}/revision/main?blobs=true"
        answer = _json(url, read)
        commit = _text(answer, "sha", url)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise EcglmError(f"{url}: 'sha' {commit[:50]!r} is no commit; the service has changed")
        found = []
        for item in _list(answer, "siblings", url):
            name = check_member_name(url, _text(item, "rfilename", url))
            lfs = item.get("lfs")
            digest = ("sha256", _text(lfs, "sha256", url)) if lfs else ("git-sha1", _text(item, "blobId", url))
            place = f"{top}/datasets/{self.repository}/resolve/{commit}/{quote(name)}"
            found.append(RemoteFile(name, place, _size(item, url), digest))
        return sorted(found, key=lambda f: f.name)


def parse_sha256sums(text: str, where: str) -> dict[str, str]:
    """Relative name → sha256 (hex) of a ``SHA256SUMS.txt``; EcglmError naming the line that is none."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *]?(\S.*)", line)
        if not match:
            raise EcglmError(f"{where}, line {number}: no checksum and file name; the listing is damaged")
        name = check_member_name(where, match[2].removeprefix("./"))
        if found.setdefault(name, match[1].lower()) != match[1].lower():
            raise EcglmError(f"{where}, line {number}: {name} stands twice with different checksums")
    if not found:
        raise EcglmError(f"{where}: lists no files; the address is wrong or the dataset has moved")
    return found


def _json(url: str, read: Read) -> Any:
    try:
        return json.loads(read(url, _MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise EcglmError(f"{url}: does not answer in JSON ({str(error)[:100]}); is the address right?") from error


def _list(answer: Any, key: str, url: str) -> list[Any]:
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise EcglmError(f"{url}: no '{key}' in its answer; the service has changed or the dataset moved")
    return found


def _text(item: Any, key: str, url: str) -> str:
    found = item.get(key) if isinstance(item, dict) else None
    if not isinstance(found, str):
        raise EcglmError(f"{url}: no '{key}' where one is expected; the service has changed")
    return found


def _number(item: Any, key: str, url: str) -> int:
    found = item.get(key) if isinstance(item, dict) else None
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise EcglmError(f"{url}: '{key}' is no number; the service has changed")
    return found


def _size(item: Any, url: str) -> int:
    return _number(item, "size", url)


def _md5(text: str, url: str) -> tuple[str, str]:
    if not re.fullmatch(r"[0-9a-fA-F]{32}", text):
        raise EcglmError(f"{url}: {text[:50]!r} is no md5; the service has changed")
    return "md5", text
