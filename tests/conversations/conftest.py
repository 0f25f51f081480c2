"""A store without signals: what mapping needs of one, written out by hand. Makes ``official_files`` importable."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))


class ListedStore:
    """Rows of an index as a SegmentStore has them; ``segments`` of them per record."""

    def __init__(self, rows: list[dict[str, Any]], segments: int = 1) -> None:
        self.index = pa.Table.from_pylist([self._whole(row, k) for row in rows for k in range(segments)])

    @staticmethod
    def _whole(row: dict[str, Any], k: int) -> dict[str, Any]:
        record = row["record_id"]
        whole = {
            "segment_id": f"{record}#{k}",
            "patient_id": record,
            "source": record.split("/")[0],
            "split": "",
            "fold": None,
            "report": "",
            "report_en": "",
            "report_origin": "",
            "labels": [],
            "metadata": {},
            **row,
        }
        return {**whole, "metadata": json.dumps(whole["metadata"])}


@pytest.fixture
def listed_store() -> type[ListedStore]:
    return ListedStore
