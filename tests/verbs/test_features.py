"""The verb features: what is asked for and would otherwise be ignored is refused (src/ecglm/verbs/features.py)."""

from pathlib import Path

import pytest

from ecglm.errors import EcglmError
from ecglm.verbs import features as verb


def _verb():
    (found,) = [f for n, f in vars(verb).items() if callable(f) and getattr(f, "__module__", "") == verb.__name__]
    return found


def test_a_table_is_named_parquet():
    with pytest.raises(EcglmError, match=r"y\.csv: a Parquet file is made"):
        _verb()(Path("store"), out=Path("y.csv"))


def test_the_288_features_have_no_line():
    with pytest.raises(EcglmError, match=r"--kind ecg_bench_288 is for a table"):
        _verb()(Path("store"), segment=0, kind="ecg_bench_288")


def test_a_folder_is_no_file_to_make(tmp_path):
    from ecglm.verbs.common import is_made

    for overwrite in (False, True):
        with pytest.raises(EcglmError, match="is a folder, a file is made here"):
            is_made(tmp_path, "x", str, overwrite)
