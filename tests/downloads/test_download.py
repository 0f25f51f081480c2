from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from ecglm.downloads import download as module
from ecglm.downloads.catalogue import DATASETS
from ecglm.downloads.download import STATE, download
from ecglm.errors import ConfigError, EcglmError, StaleOutputError, TornOutputError, UnsafeInputError

FILES = {
    "LICENSE.txt": b"CC BY 4.0",
    "ptbxl_database.csv": b"ecg_id\n1\n",
    "records100/00000/00001_lr.dat": bytes(240),
    "records100/00000/00001_lr.hea": b"00001_lr 12 100 10\n",
    "records500/00000/00001_hr.dat": bytes(1200),
    "records500/00000/00001_hr.hea": b"00001_hr 12 500 50\n",
}
SUMS = "/files/ptb-xl/1.0.3/SHA256SUMS.txt"


@pytest.fixture
def get(host, tmp_path):
    def run(name="ptb-xl", to=None, **options):
        options = {"only": ("*",) if name == "ptb-xl" else (), **options}
        return download(name, to or tmp_path / "d", base_url=host.url, progress=False, first_wait=0.01, **options)

    return run


def visible(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.relative_to(folder).as_posix().startswith(".")
    }


def zipped(files, top=""):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(top + name, data)
    return out.getvalue()


@pytest.mark.parametrize("workers", [1, 4])
def test_a_project_file_by_file(get, physionet, tmp_path, workers):
    physionet("ptb-xl", "1.0.3", FILES)
    summary = get(workers=workers)
    assert visible(tmp_path / "d") == FILES
    assert (summary.fetched, summary.reused, summary.num_bytes) == (6, 0, sum(map(len, FILES.values())))
    assert summary.unchecked == ()
    text = "\n".join(summary.lines())
    assert "CC BY 4.0" in text and "ecglm prepare ptb-xl --root" in text
    manifest = json.loads((tmp_path / "d" / STATE / "manifest.json").read_text())
    assert manifest["outputs"] == {n: hashlib.sha256(d).hexdigest() for n, d in FILES.items()}


def test_files_share_connections(get, physionet, host):
    physionet("ptb-xl", "1.0.3", {f"{n}.dat": bytes(n * 1000) for n in range(40)})
    get(workers=2)
    assert host.connections <= 3  # the listing's and one per worker


def test_a_finished_download_asks_nobody(get, physionet, host):
    physionet("ptb-xl", "1.0.3", FILES)
    get()
    host.seen.clear()
    summary = get()
    assert (summary.fetched, summary.reused, host.seen) == (0, 6, [])


def test_a_lost_or_shortened_file_is_fetched_again(get, physionet, host, tmp_path):
    top = physionet("ptb-xl", "1.0.3", FILES)
    get()
    host.seen.clear()
    (tmp_path / "d/LICENSE.txt").unlink()
    (tmp_path / "d/ptbxl_database.csv").write_bytes(b"")
    assert get().fetched == 2
    assert sorted(p for p, _ in host.seen) == [f"{top}/LICENSE.txt", f"{top}/ptbxl_database.csv"]
    assert visible(tmp_path / "d") == FILES


def test_a_choice_comes_with_tables_and_licence_and_can_grow(get, physionet, host, tmp_path):
    physionet("ptb-xl", "1.0.3", FILES)
    get(only=("records500/*",))
    assert sorted(visible(tmp_path / "d")) == [n for n in sorted(FILES) if "records100" not in n]
    summary = get(only=("records100/*", "records500/*"))
    assert (summary.fetched, summary.reused) == (2, 4)
    assert host.asked(SUMS) == 1
    with pytest.raises(EcglmError, match=r"--only rec500/\*: no file of ptb-xl is called so; e.g. LICENSE.txt"):
        get(only=("rec500/*",))


def test_limit_takes_tables_first(get, physionet, tmp_path):
    physionet("ptb-xl", "1.0.3", FILES)
    get(limit=3)
    assert list(visible(tmp_path / "d")) == ["LICENSE.txt", "ptbxl_database.csv", "records100/00000/00001_lr.dat"]


def test_files_that_lay_there_before_are_taken_when_they_are_right(get, physionet, host, tmp_path):
    physionet("ptb-xl", "1.0.3", FILES)
    for name, data in FILES.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(data if name != "LICENSE.txt" else b"wrong")
    get()
    assert [p for p, _ in host.seen if p != SUMS] == ["/files/ptb-xl/1.0.3/LICENSE.txt"]
    assert visible(tmp_path / "d") == FILES


def test_one_bad_file_does_not_keep_the_others_away(get, physionet, host, tmp_path):
    top = physionet("ptb-xl", "1.0.3", FILES)
    host.files[f"{top}/ptbxl_database.csv"] = b"spoiled\n\n"
    with pytest.raises(TornOutputError, match=r"ptbxl_database.csv: the sha256 checksum is wrong"):
        get()
    assert visible(tmp_path / "d") == {n: d for n, d in FILES.items() if n != "ptbxl_database.csv"}
    assert not (tmp_path / "d" / STATE / "manifest.json").exists()
    host.files[f"{top}/ptbxl_database.csv"] = FILES["ptbxl_database.csv"]
    summary = get()
    assert (summary.fetched, summary.reused) == (1, 5)


def test_when_everything_fails_it_ends_soon(get, host, physionet):
    top = physionet("ptb-xl", "1.0.3", {f"{n:03d}": b"x" for n in range(200)})
    for n in range(200):
        del host.files[f"{top}/{n:03d}"]
    with pytest.raises(EcglmError, match=r"answers 404; no such file.*\(and \d+ more files failed\)"):
        get(workers=1)
    assert len(host.seen) < 40


def test_a_redirect_to_a_file_is_refused(get, host, physionet, tmp_path):
    top = physionet("ptb-xl", "1.0.3", FILES)
    host.plan[f"{top}/LICENSE.txt"] = ["file:///etc/hostname"]
    with pytest.raises(UnsafeInputError, match="only http and https are fetched"):
        get()
    assert not (tmp_path / "d/LICENSE.txt").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", f"{STATE}/done.jsonl"])
def test_a_hostile_listing_is_refused(get, host, physionet, tmp_path, name):
    physionet("ptb-xl", "1.0.3", {name: b"x"})
    with pytest.raises(EcglmError):
        get()
    assert visible(tmp_path / "d") == {}


def test_another_dataset_in_the_folder(get, physionet):
    physionet("ptb-xl", "1.0.3", FILES)
    get()
    with pytest.raises(StaleOutputError, match="holds the dataset 'ptb-xl'; choose another --to"):
        get("csn", only=("*",))


def test_mistakes_in_options(get, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'georgia'"):
        get("georgi")
    with pytest.raises(EcglmError, match="--workers and --limit"):
        get(workers=0)
    with pytest.raises(EcglmError, match="--workers and --limit"):
        get(limit=0)
    with pytest.raises(UnsafeInputError, match="--base-url"):
        download("ptb-xl", tmp_path / "d", base_url="ftp://x")


def test_no_room_on_the_disk_is_told_before(get, host, as_json, tmp_path):
    item = {"key": "exams.csv", "size": 1 << 60, "checksum": "md5:" + "0" * 32}
    host.put("/api/records/4916206", as_json({"files": [item]}))
    with pytest.raises(EcglmError, match=r"1152921.5 TB are still to come, .* are free"):
        get("code15")


def test_two_at_once(get, physionet, tmp_path):
    from ecglm.files import folder_lock

    physionet("ptb-xl", "1.0.3", FILES)
    with folder_lock(tmp_path / "d"), pytest.raises(EcglmError, match="another process is working on it"):
        get()


def test_what_needs_a_person_says_how(tmp_path):
    for name in ("mimic-iv", "pretrain-mimic"):
        text = "\n".join(download(name, tmp_path / "d").lines())
        assert "1. " in text and DATASETS[name].home in text
    assert not (tmp_path / "d").exists()


# --- whole archives


def official_zip(files, spoil=None):
    sums = "".join(f"{hashlib.sha256(d).hexdigest()} {n}\n" for n, d in files.items()).encode()
    return zipped({**files, "SHA256SUMS.txt": sums, **(spoil or {})}, "ptb-xl-title-1.0.3/")


def test_a_whole_project_comes_as_its_official_zip(get, host, tmp_path):
    name = f"{DATASETS['ptb-xl'].place.zip_name}-1.0.3.zip"
    path = f"/static/published-projects/ptb-xl/{name}"
    data = official_zip(FILES)
    host.put(path, data)
    host.plan[path] = [{"cut": 300}]
    summary = get(only=())
    assert visible(tmp_path / "d") == {name: data}
    assert (summary.fetched, summary.unchecked) == (1, ())
    host.seen.clear()
    assert (get(only=()).reused, host.seen) == (1, [])


def test_a_zip_that_disagrees_with_its_checksums_is_thrown_away(get, host, tmp_path):
    name = f"{DATASETS['ptb-xl'].place.zip_name}-1.0.3.zip"
    host.put(f"/static/published-projects/ptb-xl/{name}", official_zip(FILES, {"LICENSE.txt": b"other"}))
    with pytest.raises(TornOutputError, match=r"LICENSE.txt has a wrong checksum; download the archive again"):
        get(only=())
    assert visible(tmp_path / "d") == {}


def test_a_zip_is_not_visible_before_it_is_checked(get, host, tmp_path, monkeypatch):
    name = f"{DATASETS['ptb-xl'].place.zip_name}-1.0.3.zip"
    data = official_zip(FILES)
    host.put(f"/static/published-projects/ptb-xl/{name}", data)
    seen = []
    real = module.verify_zip
    monkeypatch.setattr(
        module, "verify_zip", lambda p, *tick: seen.append((p.name, (tmp_path / "d" / name).exists())) or real(p, *tick)
    )
    get(only=())
    assert seen == [(f"{name}.part", False)]
    (tmp_path / "d" / STATE / "done.jsonl").unlink()
    host.seen.clear()
    get(only=())  # the journal is lost: the zip is judged by itself
    assert host.seen == []
    (tmp_path / "d" / STATE / "done.jsonl").unlink()
    (tmp_path / "d" / name).write_bytes(b"PK spoiled")
    get(only=())
    assert visible(tmp_path / "d") == {name: data}


def test_code15_is_unpacked_and_its_zips_removed(get, host, as_json, tmp_path):
    files = {"exams.csv": b"exam_id\n1\n", "exams_part0.zip": zipped({"exams_part0.hdf5": b"hdf5"})}
    items = [{"key": n, "size": len(d), "checksum": "md5:" + hashlib.md5(d).hexdigest()} for n, d in files.items()]
    host.put("/api/records/4916206", as_json({"files": items}))
    for name, data in files.items():
        host.put(f"/api/records/4916206/files/{name}/content", data)
    summary = get("code15")
    assert visible(tmp_path / "d") == {"exams.csv": b"exam_id\n1\n", "exams_part0.hdf5": b"hdf5"}
    assert (summary.fetched, summary.unpacked) == (2, 1)
    host.seen.clear()
    assert (get("code15").reused, host.seen) == (2, [])
    (tmp_path / "d/exams_part0.hdf5").unlink()
    assert get("code15").fetched == 1
    assert (tmp_path / "d/exams_part0.hdf5").read_bytes() == b"hdf5"


def test_sph_from_figshare(get, host, as_json, tmp_path):
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("./records/A00001.h5")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    files = {"records.tar.gz": out.getvalue(), "metadata.csv": b"ECG_ID\n"}
    host.put("/v2/collections/5779802/articles?page=1&page_size=100", as_json([{"id": 1}, {"id": 2}]))
    for n, (name, data) in enumerate(files.items(), 1):
        item = {"id": n, "name": name, "size": len(data), "computed_md5": hashlib.md5(data).hexdigest()}
        host.put(f"/v2/articles/{n}", as_json({"files": [item]}))
        host.put(f"/files/{n}", data)
    get("sph")
    assert visible(tmp_path / "d") == {"metadata.csv": b"ECG_ID\n", "records/A00001.h5": b"abc"}


def test_a_repository_of_github(get, host, tmp_path):
    place = DATASETS["ecg-qa"].place
    data = zipped({"ecgqa/ptbxl/answers.csv": b"index,class\n"}, f"ecg-qa-{place.revision}/")
    host.put("/end", data)
    host.plan[f"/{place.repository}/archive/{place.revision}.zip"] = ["/end"]
    summary = get("ecg-qa")
    assert visible(tmp_path / "d") == {"ecgqa/ptbxl/answers.csv": b"index,class\n"}
    assert "no checksum is published for ecg-qa.zip" in "\n".join(summary.lines())


def test_a_hostile_archive_leaves_nothing(get, host, tmp_path):
    place = DATASETS["ecg-qa"].place
    host.put(f"/{place.repository}/archive/{place.revision}.zip", zipped({"a/ok": b"1", "../evil": b"2"}))
    with pytest.raises(UnsafeInputError, match="refuses the name"):
        get("ecg-qa")
    assert visible(tmp_path / "d") == {}
    assert not (tmp_path / "evil").exists()


def test_a_repository_of_hugging_face(get, host, as_json, tmp_path):
    files = {"ECGInstruct.json": b"[]", "images/x.zip": b"zip", "README.md": b"# card\n"}
    siblings = [
        {
            "rfilename": n,
            "size": len(d),
            "blobId": hashlib.sha1(f"blob {len(d)}\0".encode() + d).hexdigest(),
            **({"lfs": {"sha256": hashlib.sha256(d).hexdigest()}} if n.endswith(".zip") else {}),
        }
        for n, d in files.items()
    ]
    commit = "f" * 40
    url = "/api/datasets/PULSE-ECG/ECGInstruct/revision/main?blobs=true"
    host.put(url, as_json({"sha": commit, "siblings": siblings}))
    for name, data in files.items():
        host.put(f"/datasets/PULSE-ECG/ECGInstruct/resolve/{commit}/{name}", data)
    get("ecg-instruct-pulse")
    assert visible(tmp_path / "d") == {n: d for n, d in files.items() if "images" not in n}
    get("ecg-instruct-pulse", only=("*",))
    assert visible(tmp_path / "d") == files


# --- interruptions

SCRIPT = """
import sys
from ecglm.downloads.download import download
download("ptb-xl", sys.argv[1], only=("*",), base_url=sys.argv[2], workers=2, first_wait=0.01)
"""


def start(folder, host):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), host.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "ctrl-c"])
def test_killed_and_gone_on_with(get, host, physionet, tmp_path, how):
    big = os.urandom(1 << 20)
    top = physionet("ptb-xl", "1.0.3", {**FILES, "zz.dat": big})
    host.plan[f"{top}/zz.dat"] = [{"slow": True}]
    running = start(tmp_path / "d", host)
    part = tmp_path / "d" / "zz.dat.part"
    journal = tmp_path / "d" / STATE / "done.jsonl"
    limit = time.monotonic() + 30
    while time.monotonic() < limit and not (
        part.exists() and part.stat().st_size == len(big) // 2 and journal.read_bytes().count(b"\n") == 6
    ):
        time.sleep(0.02)
    running.send_signal(how)
    if how == signal.SIGKILL:
        running.wait(30)
    else:  # nothing shows that it has heard
        time.sleep(0.7)
    host.pause.set()
    running.wait(60)
    assert running.returncode != 0
    assert not (tmp_path / "d" / "zz.dat").exists()
    with open(journal, "ab") as handle:
        handle.write(b'{"name": "torn')
    host.seen.clear()
    summary = get()
    assert (summary.fetched, summary.reused) == (1, 6)
    assert visible(tmp_path / "d") == {**FILES, "zz.dat": big}
    ((path, asked),) = host.seen
    assert path.endswith("zz.dat") and asked.startswith("bytes=")
    assert int(asked.removeprefix("bytes=").removesuffix("-")) >= len(big) // 2
    assert get().fetched == 0


def test_progress_is_shown_on_stderr(host, physionet, tmp_path):
    physionet("ptb-xl", "1.0.3", FILES)
    running = start(Path(tmp_path / "with blank ä"), host)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert out == ""
    assert "ptb-xl: 6/6 files, " in err and "/s" in err
