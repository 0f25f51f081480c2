"""A store without signals: what mapping needs of one, written out by hand."""

from __future__ import annotations

from typing import Any

import pytest


class ListedStore:
    """Rows of an index as a SegmentStore gives them; ``segments`` of them per record."""

    def __init__(self, rows: list[dict[str, Any]], segments: int = 1) -> None:
        self.rows = [self._whole(row, k) for row in rows for k in range(segments)]

    @staticmethod
    def _whole(row: dict[str, Any], k: int) -> dict[str, Any]:
        record = row["record_id"]
        return {
            "segment_id": f"{record}#{k}",
            "patient_id": record,
            "source": record.split("/")[0],
            "split": "",
            "fold": None,
            "report": "",
            "labels": [],
            "metadata": {},
            **row,
        }

    def records(self) -> list[str]:
        return list(dict.fromkeys(row["record_id"] for row in self.rows))

    def segments_of(self, record_id: str) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row["record_id"] == record_id]

    def row(self, i: int) -> dict[str, Any]:
        return self.rows[i]


@pytest.fixture
def listed_store() -> type[ListedStore]:
    return ListedStore
