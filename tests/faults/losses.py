"""What a service says it lost, against what it really lost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from data_manager.adapters.meta.sql import open_meta
from data_manager.domain.finding import Finding, FindingKind
from tests.account import compared
from tests.service import Service
from tests.truth import Line, rows_of

Rows = Mapping[str, Sequence[str]]


async def losses_of(service: Service, kind: FindingKind = FindingKind.DROPPED) -> list[Finding]:
    """Its findings of that kind, as the metadata store keeps them."""
    meta = await open_meta(f"sqlite:///{service.data_dir / 'metadata.sqlite'}", migrate=False)
    try:
        found, total = await meta.findings(limit=10_000, kind=kind)
    finally:
        await meta.close()
    assert total == len(found)
    return found


def seen(findings: Iterable[Finding]) -> list[Finding]:
    """Those about events that were seen before they were let go: their count and their span are exact."""
    return [one for one in findings if one.evidence["why"] == "overflow"]


def absences(findings: Iterable[Finding]) -> list[Finding]:
    """Those about what passed while nobody listened, by our clock."""
    return [one for one in findings if one.evidence["why"] == "away" and one.series is None]


def gaps(findings: Iterable[Finding]) -> list[Finding]:
    """Those about a series that was not heard for a while, by the venue's clock."""
    return [one for one in findings if one.evidence["why"] == "away" and one.series is not None]


def missing(expected: Rows, held: Rows) -> dict[str, list[str]]:
    """By series, the rows that ought to be held and are not. What is held and ought not to be fails."""
    lost = {}
    compared(expected, held)
    for series, rows in expected.items():
        have = set(held.get(series, ()))
        assert have <= set(rows), series
        if gone := [row for row in rows if row not in have]:
            lost[series] = gone
    assert set(held) <= set(expected)
    return lost


def uncovered(lost: Rows, findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Lost rows that lie in no finding of their series: there must be none."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for one in findings:
        if one.series is not None and one.end_ms is not None:
            spans.setdefault(one.series, []).append((one.start_ms, one.end_ms))
    return [
        (series, row)
        for series, rows in lost.items()
        for row in rows
        if not any(start <= time_ms(row) < end for start, end in spans.get(series, ()))
    ]


def time_ms(row: str) -> int:
    """The row's time in the time of its dataset."""
    at = datetime.fromisoformat(json.loads(row)["timestamp"])
    return round(at.timestamp() * 1_000)


def to_replay(lines: Iterable[Line], findings: Iterable[Finding]) -> list[Line]:
    """The lines that a source would be asked for: those of the findings' series, within their spans, ends included."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for one in findings:
        if one.series is not None and one.end_ms is not None:
            spans.setdefault(one.series, []).append((one.start_ms, one.end_ms))
    wanted = []
    for line in lines:
        for series, [row] in rows_of([line]).items():
            if any(start <= time_ms(row) < end for start, end in spans.get(series, ())):
                wanted.append(line)
    return wanted
