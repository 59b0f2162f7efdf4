"""Certify: what a series holds over a span, in a form that shows every later change; and does it hold that still?

    store ──> pages ──┬─> fingerprint (content hash, sums of blocks) ─┐
                      └─> checks (rows that are facts and yet odd) ───┼─> certificate ──> TruthStore
    what the audits know (holes, condition) ──────────────────────────┘

A certificate claims what was looked at and no more: what nobody audited is unverified in it, and what is missing is
named. Rows are read as any reader reads them, so the service may run meanwhile; what changes while they are read may be
in it or not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from data_manager.domain.checks.paging import Checking
from data_manager.domain.condition.partition import Condition as Word
from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Conflict, NotFound
from data_manager.domain.proof.certificate import Certificate, Contents, Fingerprint, KnownHole, block_keys, issue
from data_manager.domain.retention import LET_GO
from data_manager.domain.span import Span
from data_manager.ports import Clock, LeaseLost, SeriesStore
from data_manager.ports.truth import TruthStore
from data_manager.services.answering.pages import pages
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.auditing.judging import row_end_ms
from data_manager.services.conditions import Conditions

PAGE_ROWS: Final = 65_536
COMPLETE: Final = "no_holes"
"""The check that the span was audited throughout and lacks no row."""

_TRIES: Final = 5
_JUDGED: Final = (Word.GOOD, Word.HEALED, Word.DEGRADED)

Progress = Callable[[int, int, str], None]


def _unheard(done: int, total: int, what: str) -> None:
    """Nobody wants to know."""


class Read(NamedTuple):
    """What the rows of a span are. newest_received_ms: when the last of them reached us; None without rows."""

    contents: Contents
    checks: tuple[str, ...]
    offences: dict[str, int]
    newest_received_ms: int | None


class Certifier:
    """Issues certificates of what one store holds.

    rest: after each page it sleeps so many times as long as the page took, so that others have their turn.
    """

    def __init__(
        self,
        store: SeriesStore,
        truth: TruthStore,
        conditions: Conditions,
        clock: Clock,
        *,
        rest: float = 0.0,
        page_rows: int = PAGE_ROWS,
    ) -> None:
        self.issued = 0  # certificates, since the start
        self._store = store
        self._truth = truth
        self._conditions = conditions
        self._clock = clock
        self._rest = rest
        self._page_rows = page_rows

    async def certify(
        self,
        series: Series,
        span: Span,
        *,
        truth: TruthStore | None = None,
        progress: Progress = _unheard,
        fine: bool = True,
    ) -> Certificate:
        """The certificate of the rows whose times lie in span, kept. The span may hold no rows: then it says so.

        fine: of smaller blocks, so that several changed rows are told apart; it is larger for that. truth: where it
        is kept, such as under a lease. Raises BadQuery for a span that is not over, Corrupt for rows that cannot be
        read; nothing is kept then.
        """
        if span.end_ms > self._clock.now_ms():
            raise BadQuery("end", span.end_ms, "must not lie in the future: only what is over can be certified")
        read = await self.read(series, span, progress=progress, fine=fine)
        return await self.issue(series, span, read, truth=truth)

    async def healed(self, series: Series, span: Span, *, truth: TruthStore | None = None) -> list[Certificate]:
        """Rows came into the span: its certificate, and new ones of what was certified before and holds others now."""
        refs = await self._truth.certificate_refs(series=series.id)
        newest = {Span(one.start_ms, one.end_ms): one for one in refs}
        touched = [one for one in newest if one.start_ms < span.end_ms and one.end_ms > span.start_ms]
        spans = dict.fromkeys((*touched, span))
        return [await self.certify(series, one, truth=truth, fine=False) for one in spans]

    async def read(self, series: Series, span: Span, *, progress: Progress = _unheard, fine: bool = False) -> Read:
        """Read the rows of a span; nothing is issued."""
        total = await self._store.count(series, span)
        fingerprint = Fingerprint(await self._block_keys(series, span, total, fine))
        checking = Checking(DATASETS[series.dataset])
        done = 0
        async for page in pages(self._store, series, span, rows=self._page_rows):
            began_s = self._clock.monotonic_s()
            await asyncio.to_thread(fingerprint.update, page)
            await asyncio.to_thread(checking.update, page)
            done += len(page)
            progress(done, max(done, total), series.id)
            if self._rest:
                await self._clock.sleep(self._rest * (self._clock.monotonic_s() - began_s))
        contents = await asyncio.to_thread(fingerprint.finish)
        checking.finish()
        passed = tuple(one for one in checking.names if one not in checking.offences)
        return Read(contents, passed, dict(checking.offences), fingerprint.newest_received_ms)

    async def issue(self, series: Series, span: Span, read: Read, *, truth: TruthStore | None = None) -> Certificate:
        """The certificate of what was read, following upon the newest one of the series."""
        records = truth or self._truth
        for _ in range(_TRIES):
            one = await self._made(series, span, read)
            try:
                await records.keep_certificate(one)
            except LeaseLost:
                raise
            except Conflict:
                continue  # somebody else certified rows of this series: follow upon that one
            self.issued += 1
            return one
        raise Conflict(f"{series.id} is being certified by others all the time: try again later")

    async def _made(self, series: Series, span: Span, read: Read) -> Certificate:
        now_ms = self._clock.now_ms()
        found, _ = await self._truth.certificates(limit=1, series=series.id)
        before = found[0] if found else None
        [truth] = await self._truth.truths([series.id]) or [SeriesTruth(series=series.id)]
        condition = await self._conditions.condition_of(series, span, now_ms)
        lengths: Counter[str] = Counter()
        for part in condition.ranges:
            lengths[part.condition.value] += part.end_ms - part.start_ms
        complete = all(part.condition in _JUDGED for part in condition.ranges)
        return issue(
            read.contents,
            series=series.id,
            span=span,
            checks=(*read.checks, COMPLETE) if complete else read.checks,
            offences=read.offences,
            condition=lengths,
            holes=[*_known_holes(truth, span)],
            rule_version=RULE_VERSION,
            previous=None if before is None else before.id,
            # In order even when our clock was set back: the newest one is what the next one follows upon.
            issued_ms=now_ms if before is None else max(now_ms, before.issued_ms + 1),
        )

    async def span_of(self, series: Series, start_ms: int | None, end_ms: int | None) -> Span:
        """The span from one to the other; where there is none, what is held bounds it.

        Raises NotFound for a series that holds nothing, BadQuery for a start that does not lie before the end.
        """
        extent = await self._store.extent(series)
        if extent is None:
            raise NotFound(f"nothing is held of {series.id}: there is nothing to certify")
        return Span(
            extent.first_ms if start_ms is None else start_ms,
            min(row_end_ms(series, extent.last_ms), self._clock.now_ms()) if end_ms is None else end_ms,
        )

    async def _block_keys(self, series: Series, span: Span, rows: int, fine: bool) -> int:
        names = DATASETS[series.dataset].audited_columns
        first = await self._store.scan(series, span, columns=names, limit=1)
        last = await self._store.scan(series, span, columns=names, limit=1, descending=True)
        return block_keys(rows, int(first.key[0]), int(last.key[0]), fine=fine) if len(first) and len(last) else 1


def _known_holes(truth: SeriesTruth, span: Span) -> Iterator[KnownHole]:
    """What is known to be missing: holes, what was let go or lost, and what went by retention."""
    for entry in truth.holes:
        if entry.live and entry.start_ms < span.end_ms and entry.end_ms > span.start_ms:
            yield KnownHole(entry.start_ms, entry.end_ms, entry.state.value, entry.missing)
    lost = [(one.start_ms, one.end_ms, one.reason) for one in truth.flaws if one.lost]
    for start_ms, end_ms, reason in (*lost, *((one.start_ms, one.end_ms, LET_GO) for one in truth.let_go)):
        if start_ms < span.end_ms and end_ms > span.start_ms:
            yield KnownHole(start_ms, end_ms, reason, None)
