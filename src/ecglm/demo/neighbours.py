"""What a search found, as people see it: a picture, the report as plain text, the distance, and no id."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from ecglm.demo.samples import Samples
from ecglm.demo.texts import plain
from ecglm.errors import EcglmError
from ecglm.types import Neighbour

#: Longest report that is shown, in characters.
_MOST = 4000


@dataclass(frozen=True)
class NeighbourShown:
    """One hit. picture: PNG bytes, or None where no store that is open holds it. report: plain text, to be shown as
    text. labels: names without their group.
    """

    title: str
    distance: float
    report: str
    labels: tuple[str, ...]
    picture: bytes | None


def neighbours_shown(
    hits: Sequence[Neighbour], samples: Samples | None = None, *, layout: str = "3x4+1", width: int = 900
) -> list[NeighbourShown]:
    """The hits in their order, nearest first; record and patient ids are left out. samples: hold the stores in which
    the pictures are looked for.
    """
    found = []
    for number, hit in enumerate(hits, 1):
        title = f"Neighbour {number}"
        report = plain(hit.report).strip()
        report = f"{report[:_MOST]} …" if len(report) > _MOST else report
        labels = tuple(plain(label.partition(":")[2] or label) for label in hit.labels)
        picture = None
        if samples is not None:
            with contextlib.suppress(EcglmError):  # its store is not open: shown without a picture
                picture = samples.of_segment(hit.segment_id, title).page(layout, width)
        found.append(NeighbourShown(title, float(hit.distance), report, labels, picture))
    return found
