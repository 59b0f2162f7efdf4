"""Contradictions: rows that came again, held against what is held under their keys.

A row is kept once per key, so a second one that says something else changes nothing, or replaces the first one. Either
way somebody was wrong, and nobody but us has seen both: a finding names the row, the field and both values, and what is
held of it is degraded until a reconciliation agrees with it, or it goes. An equal row is a duplicate and no more.

This goes on beside the ingest and holds nothing up. After a restart of the bus everything may come again at once: what
there is no room for is not compared, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from data_manager.domain.batch import STREAM, Batch, joined, pack
from data_manager.domain.checks.comparing import RowDifference, compare
from data_manager.domain.checks.revisions import conflicts
from data_manager.domain.dataset import Dataset, Keep, Series
from data_manager.domain.errors import Corrupt
from data_manager.domain.events import Event
from data_manager.domain.finding import Finding, FindingKind, finding_id
from data_manager.domain.time import HOUR_MS
from data_manager.domain.values.columns import Index
from data_manager.ports import Clock, SeriesStore

WAITING_MAX: Final = 10_000
"""Events that may wait to be compared: a change of a book may take 5 kB of memory."""

FINDINGS_MAX: Final = 1_000
"""Contradictions told within an hour; the others are counted."""

_AT_ONCE: Final = 2_000  # events compared at one look: about a tenth of a core while everything comes again
_ROWS: Final = 50  # compared in one go: all that differs in so many is told
_PAGE_ROWS: Final = 64
_log = structlog.get_logger(__name__)

Report = Callable[[Sequence[Finding]], None]


class Contradictions:
    """Takes what came again, and compares it when it is asked to look.

    found: rows that were told otherwise; unchecked: events there was no room for; both since the start.
    """

    def __init__(self, market: str, store: SeriesStore, clock: Clock, report: Report) -> None:
        self.found = 0
        self.unchecked = 0
        self._market = market
        self._store = store
        self._clock = clock
        self._report = report
        self._waiting: deque[tuple[Dataset, list[Event]]] = deque()
        self._count = 0
        self._told: deque[int] = deque(maxlen=FINDINGS_MAX)  # when the last ones were told
        self._said_so = False

    def came_again(self, dataset: Dataset, events: Sequence[Event]) -> None:
        """Some of these were held before, or stand there twice. Returns at once."""
        if len(dataset.key) > 1:
            return  # such a key is all that a row says
        live = dataset.live
        facts = list(events) if live is None else [one for one in events if getattr(one, live)]
        room = facts[: WAITING_MAX - self._count]
        self.unchecked += len(facts) - len(room)
        if room:
            self._waiting.append((dataset, room))
            self._count += len(room)

    async def look(self) -> None:
        """Compare some of what waits. Raises Unavailable; what was about to be compared then waits on."""
        looked = 0
        while self._waiting and looked < _AT_ONCE:
            dataset, events = self._waiting[0]
            some = events[:_AT_ONCE]
            for rows in self._batches(dataset, some):
                await self._compare(rows)
            looked += len(some)
            self._count -= len(some)
            del events[:_AT_ONCE]
            if not events:
                self._waiting.popleft()

    def _batches(self, dataset: Dataset, events: Sequence[Event]) -> Iterator[Batch]:
        """The events as rows of one series each, no key twice in any of them."""
        layers: list[list[Event]] = []
        depth: dict[tuple[str, str | None, Any], int] = {}
        for event in events:
            key = (event.symbol, getattr(event, "interval", None), getattr(event, dataset.key[0]))
            depth[key] = depth.get(key, -1) + 1
            if depth[key] == len(layers):
                layers.append([])
            layers[depth[key]].append(event)
        for layer in layers:
            packed = pack(dataset, self._market, layer, [0] * len(layer), STREAM)  # when each was received is no fact
            for rows in packed.batch.split():
                yield from (rows.take(slice(at, at + _ROWS)) for at in range(0, len(rows), _ROWS))

    async def _compare(self, rows: Batch) -> None:
        [series] = rows.series
        try:
            held = await self._held(series, rows.key)
            said = [one for one in compare(held, rows, STREAM).differences if one.what == "changed"]
            if rows.dataset.on_conflict is Keep.FINAL:
                said += await self._replaced(series, held, rows)
        except Corrupt as error:
            _log.warning("what came again cannot be compared", series=series.id, reason=str(error))
            return
        self._tell(said)

    async def _held(self, series: Series, keys: NDArray[np.int64]) -> Batch:
        """The rows held under these keys, which ascend."""
        parts: list[Batch] = []
        at = 0
        while at < len(keys):
            page = await self._store.scan(series, after=int(keys[at]) - 1, limit=_PAGE_ROWS)
            parts.append(page.take(np.isin(page.key, keys)))
            at = int(np.searchsorted(keys, page.key[-1], side="right")) if len(page) else len(keys)
        return joined(parts)

    async def _replaced(self, series: Series, held: Batch, rows: Batch) -> list[RowDifference]:
        """What these rows replaced that the stream had told, too; history may correct it."""
        held = held.take(np.array([word == STREAM for word in held.columns["origin"].values_list()], np.bool_))
        if not len(held):
            return []
        old = await self._store.revisions(series)
        mine: Index = np.flatnonzero(np.isin(old.key, rows.key))
        return [
            RowDifference(
                "changed", one.series, (one.start_ms,), one.start_ms, one.field, one.held, one.computed, STREAM
            )
            for one in conflicts(held, old.take(mine))
            if one.source == STREAM
        ]

    def _tell(self, said: Sequence[RowDifference]) -> None:
        """One finding per row and value; at most so many within an hour."""
        now_ms = self._clock.now_ms()
        rows: dict[tuple[str, tuple[Any, ...]], RowDifference] = {}
        for one in said:
            rows.setdefault((one.series, one.key), one)  # of a row the first field
        self.found += len(rows)
        while self._told and self._told[0] <= now_ms - HOUR_MS:
            self._told.popleft()
        room = FINDINGS_MAX - len(self._told)
        if len(rows) > room and not self._said_so:
            _log.error("so many rows are told otherwise that the others are only counted", within_an_hour=FINDINGS_MAX)
            self._said_so = True
        findings = [_finding(one, now_ms) for one in islice(rows.values(), room)]
        self._told.extend([now_ms] * len(findings))
        if findings:
            self._report(findings)


def _finding(one: RowDifference, now_ms: int) -> Finding:
    [key] = one.key
    return Finding(
        id=finding_id(FindingKind.DIFFERS, one.series, f"{STREAM} {key}", one.at_ms),
        kind=FindingKind.DIFFERS,
        series=one.series,
        stream=None,
        severity="warning",
        start_ms=one.at_ms,
        end_ms=one.at_ms + 1,
        evidence={
            "what": one.what,
            "key": str(key),
            "field": one.field,
            "held": one.held,
            "said": one.said,
            "source": one.source,
        },
        found_ms=now_ms,
    )
