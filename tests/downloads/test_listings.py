from __future__ import annotations

import json

import pytest

from ecglm.downloads.listings import Figshare, GitHub, HuggingFace, PhysioNet, Zenodo, parse_sha256sums
from ecglm.errors import EcglmError, UnsafeInputError

HEX = "0123456789abcdef" * 4


def reader(answers):
    def read(url, max_bytes):
        answer = answers[url]
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    return read


def test_physionet():
    text = f"{HEX} records100/00000/00001_lr.dat\n{HEX.upper()} *LICENSE.txt\n\n"
    read = reader({"https://physionet.org/files/ptb-xl/1.0.3/SHA256SUMS.txt": text.encode()})
    files = PhysioNet("ptb-xl", "1.0.3").files(None, read)
    assert [(f.name, f.size, f.digest) for f in files] == [
        ("LICENSE.txt", None, ("sha256", HEX)),
        ("records100/00000/00001_lr.dat", None, ("sha256", HEX)),
    ]
    assert files[1].url == "https://physionet.org/files/ptb-xl/1.0.3/records100/00000/00001_lr.dat"
    assert PhysioNet("ptb-xl", "1.0.3").whole(None) is None
    whole = PhysioNet("ptb-xl", "1.0.3", "long-title").whole("http://mirror")
    assert whole.url == "http://mirror/static/published-projects/ptb-xl/long-title-1.0.3.zip"


@pytest.mark.parametrize("text", ["", "\n", "x\n", "0123 a\n", f"{HEX}  \n" * 2, f"{HEX} a\n{HEX[::-1]} a\n"])
def test_sums_that_are_none(text):
    with pytest.raises(EcglmError):
        parse_sha256sums(text, "SHA256SUMS.txt")


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", "C:/a", "a/\x00"])
def test_sums_with_hostile_names(name):
    with pytest.raises(UnsafeInputError):
        parse_sha256sums(f"{HEX} {name}\n", "SHA256SUMS.txt")


def zenodo(**changed):
    links = {"self": "http://evil.example/x"}  # addresses in answers are not followed
    return {"files": [{"key": "exams part.zip", "size": 7, "checksum": "md5:" + HEX[:32], "links": links, **changed}]}


def test_zenodo():
    (file,) = Zenodo(5).files(None, reader({"https://zenodo.org/api/records/5": zenodo()}))
    assert file.url == "https://zenodo.org/api/records/5/files/exams%20part.zip/content"
    assert (file.name, file.size, file.digest) == ("exams part.zip", 7, ("md5", HEX[:32]))


@pytest.mark.parametrize(
    "answer",
    [
        *({}, [], {"files": []}, {"files": [1]}, b"<html>", b"[" * 100_000, zenodo(size="7"), zenodo(size=-1)),
        *(zenodo(size=True), zenodo(checksum="sha512:0"), zenodo(checksum=None), zenodo(key=3), zenodo(key="../x")),
    ],
)
def test_answers_that_are_not_understood(answer):
    with pytest.raises(EcglmError) as error:
        Zenodo(5).files(None, reader({"https://zenodo.org/api/records/5": answer}))
    assert "\n" not in str(error.value)


def test_figshare_reads_page_after_page():
    api = "https://api.figshare.com/v2"
    pages = [[{"id": n} for n in range(100)], [{"id": 100}]]
    answers = {f"{api}/collections/9/articles?page={p}&page_size=100": page for p, page in enumerate(pages, 1)}
    for n in range(101):
        item = {"id": 1000 + n, "name": f"f{n:03d}", "size": n, "computed_md5": HEX[:32], "download_url": "ftp://x"}
        answers[f"{api}/articles/{n}"] = {"files": [item]}
    files = Figshare(9).files(None, reader(answers))
    assert len(files) == 101
    assert files[7].url == "https://ndownloader.figshare.com/files/1007"
    with pytest.raises(EcglmError, match="a list of articles"):
        Figshare(9).files(None, reader({f"{api}/collections/9/articles?page=1&page_size=100": {"message": "no"}}))


def test_github():
    (file,) = GitHub("o/repo", "abc").files(None, reader({}))
    assert (file.name, file.url) == ("repo.zip", "https://github.com/o/repo/archive/abc.zip")
    (file,) = GitHub("o/repo", "abc", ("a dir/x.json",)).files(None, reader({}))
    assert (file.name, file.url) == ("x.json", "https://raw.githubusercontent.com/o/repo/abc/a%20dir/x.json")


def test_hugging_face_pins_the_commit():
    url = "https://huggingface.co/api/datasets/o/d/revision/main?blobs=true"
    answer = {
        "sha": "a" * 40,
        "siblings": [
            {"rfilename": "x/big.zip", "size": 9, "blobId": "b" * 40, "lfs": {"sha256": HEX, "size": 9}},
            {"rfilename": "README.md", "size": 3, "blobId": "c" * 40},
        ],
    }
    small, big = HuggingFace("o/d").files(None, reader({url: answer}))
    assert big.url == f"https://huggingface.co/datasets/o/d/resolve/{'a' * 40}/x/big.zip"
    assert (big.digest, small.digest) == (("sha256", HEX), ("git-sha1", "c" * 40))
    for broken in ({**answer, "sha": "main"}, {**answer, "siblings": [{"rfilename": "x", "size": 1}]}):
        with pytest.raises(EcglmError):
            HuggingFace("o/d").files(None, reader({url: broken}))
