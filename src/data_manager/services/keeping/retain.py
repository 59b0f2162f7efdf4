"""Retain: what is older than its retention goes, piece by piece, and never before it is certified.

    due? ──> read ──> certificate ──> lineage: begun ──> truth: let go ──> drop ──> lineage: done
      │        │          └ the same content is certified already: that one
      │        └ received lately: waits
      └ younger than its retention: stays

A stop anywhere in between loses nothing and tells nothing untrue: the next run finds the piece again, the certificate
stands, and the record that was begun is finished. Old is what is old by its own time and by the time we received it:
history that was replayed or fetched yesterday stays as long as what happened yesterday.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.condition.truth import Mark, SeriesTruth
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Conflict, Corrupt, NotFound, Unavailable
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.lineage import LineageRecord, lineage_id
from data_manager.domain.proof.certificate import Certificate
from data_manager.domain.retention import Days, LetGo, grown, kept_days, piece_of
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS
from data_manager.domain.values.columns import Ints
from data_manager.ports import Clock, LeaseLost, Records, SeriesStore
from data_manager.services.answering.pages import pages
from data_manager.services.auditing.entering import Entering
from data_manager.services.auditing.telling import changes_of
from data_manager.services.keeping.certify import PAGE_ROWS, Certifier, Read
from data_manager.services.keeping.steady import Steady
from data_manager.services.reporting import Reporter

TRANSFORMATION: Final = "retention"
ROWS_MAX: Final = 10_000_000
DOUBLED: Final = "told_once"
"""The check that blames a key that stands there twice."""

_TRIES: Final = 5
_BEGUN_MAX: Final = 1_000
_DISPUTED_MAX: Final = 10_000
_WAITING_MAX: Final = 10_000  # pieces of a series of which we remember when the newest row came
_log = structlog.get_logger(__name__)

Progress = Callable[[int, int, str], None]


class Piece(Struct, frozen=True, kw_only=True):
    """A piece of one series that is due. certificate: its id, None where there is none (a dry run, damaged rows).

    rows: how many it held; None where they could not be read. dropped: how many went; None in a dry run.
    """

    series: str
    start_ms: int
    end_ms: int
    kept_days: int
    rows: int | None
    dropped: int | None = None
    certificate: str | None = None


class Retained(Struct, frozen=True, kw_only=True):
    """What a run came to.

    waiting: pieces old by their own time whose rows came too lately. doubled: keys that were met twice. capped: more
    is due than one run may let go. failed: by series, why some of its rows cannot be certified; they stay.
    """

    pieces: tuple[Piece, ...]
    dropped: int
    waiting: int
    doubled: int
    capped: bool
    failed: dict[str, str]
    dry_run: bool
    seconds: float


class Retention:
    """Lets go of what one store holds for too long. days: what differs from the table of datasets.

    by: who does it, as records name it. rest: see Certifier.
    """

    def __init__(
        self,
        store: SeriesStore,
        records: Records,
        certifier: Certifier,
        reporter: Reporter,
        clock: Clock,
        *,
        days: Days,
        by: str,
        rows_max: int = ROWS_MAX,
    ) -> None:
        self.days = days
        self.last: Retained | None = None
        self.rows: Counter[str] = Counter()  # that went since the start, by dataset
        self._store = store
        self._records = records
        self._certifier = certifier
        self._reporter = reporter
        self._clock = clock
        self._by = by
        self._rows_max = rows_max
        self._turn = asyncio.Lock()
        self._received_ms: dict[Series, dict[int, int]] = {}  # when the newest row of a piece that waits came
        self._quiet: dict[Series, tuple[int, int]] = {}
        self._steady = Steady(clock)

    def kept_days(self, series: Series) -> int | None:
        """How many days rows of the series are kept; None for ever."""
        return kept_days(series, DATASETS[series.dataset], self.days)

    async def run(
        self,
        series: Sequence[Series] | None = None,
        *,
        dry_run: bool = False,
        force: bool = False,
        records: Records | None = None,
        progress: Progress | None = None,
    ) -> Retained:
        """Let go of what is due of these series (None: of all), as far as one run may.

        dry_run: say what is due and change nothing. force: also what was received lately, and what cannot be certified
        because it is damaged. records: where it is written, such as under a lease. Raises NotFound for a series of
        which nothing was ever held, ClockJumped, Unavailable when a store is away, and LeaseLost.
        """
        if not dry_run:
            self._steady.require()
        async with self._turn:
            found = await self._run(series, dry_run=dry_run, force=force, records=records, progress=progress)
        if series is None and not dry_run:
            self.last = found
        return found

    async def _run(
        self,
        series: Sequence[Series] | None,
        *,
        dry_run: bool,
        force: bool,
        records: Records | None,
        progress: Progress | None,
    ) -> Retained:
        began_s = self._clock.monotonic_s()
        one = _Run(self, records or self._records, dry_run=dry_run, force=force)
        wanted = await self._wanted(series)
        if not dry_run:
            await one.finish_begun()
        for done, at in enumerate(wanted):
            if progress:
                progress(done, len(wanted), at.id)
            if not await one.of(at):
                break
        return one.outcome(self._clock.monotonic_s() - began_s)

    async def _wanted(self, series: Sequence[Series] | None) -> list[Series]:
        held = await self._store.series()
        if series is None:
            return held
        gone = {one.id for one in series} - {one.id for one in held}
        never = gone - (await self._records.truth_versions()).keys() if gone else gone
        if never:
            raise NotFound(f"nothing was ever held of {', '.join(sorted(never))}")
        return sorted({*series} & {*held})

    # ---- what is due -----------------------------------------------------------------------------------------------

    async def due(self, series: Series, days: int, now_ms: int) -> AsyncIterator[Span]:
        """Pieces that hold rows and are older than so many days by their own time, the oldest first."""
        extent = await self._store.extent(series)
        if extent is None:
            return
        limit_ms, row_ms = now_ms - days * DAY_MS, extent.first_ms
        while True:
            piece = piece_of(series, row_ms)
            if piece.end_ms > limit_ms:
                return
            yield piece
            if piece.end_ms >= limit_ms:
                return
            names = DATASETS[series.dataset].audited_columns
            following = await self._store.scan(series, Span(piece.end_ms, limit_ms), columns=names, limit=1)
            if not len(following):
                return
            row_ms = int(following.time_ms[0])

    async def waits(self, series: Series, piece: Span, limit_ms: int) -> bool:
        """Whether some of its rows were received too lately to go. Asked once, then remembered."""
        known = self._received_ms.setdefault(series, {})
        if known.get(piece.start_ms, limit_ms) > limit_ms:
            return True
        newest_ms = 0
        names = [*DATASETS[series.dataset].audited_columns, "received_ms"]
        async for page in pages(self._store, series, piece, rows=PAGE_ROWS, columns=names):
            received = page.columns["received_ms"]
            assert isinstance(received, Ints)
            newest_ms = max(newest_ms, int(received.values.max()))
        known.pop(piece.start_ms, None)
        if newest_ms <= limit_ms:
            return False
        if len(known) < _WAITING_MAX:
            known[piece.start_ms] = newest_ms
        return True

    def quiet(self, series: Series, now_ms: int) -> int | None:
        """How many pieces wait, where it is known that nothing else is to be done; None where one has to look."""
        until_ms, waiting = self._quiet.get(series, (0, 0))
        return waiting if now_ms < until_ms else None

    def note_quiet(self, series: Series, waiting: int, days: int, now_ms: int) -> None:
        """Nothing went, and so many pieces wait: until the first of them may go, or the next day is old enough.

        What comes into days of long ago meanwhile came lately, and would wait too.
        """
        until_ms = (now_ms // DAY_MS + 1) * DAY_MS
        free_ms = [newest_ms + days * DAY_MS for newest_ms in self._received_ms.get(series, {}).values()]
        self._quiet[series] = min([until_ms, *free_ms]), waiting


class _Run:
    """One run."""

    def __init__(self, retention: Retention, records: Records, *, dry_run: bool, force: bool) -> None:
        self._retention = retention
        self._records = records
        self._dry_run = dry_run
        self._force = force
        self._store = retention._store
        self._clock = retention._clock
        self._pieces: list[Piece] = []
        self._failed: dict[str, str] = {}
        self._rows = self._waiting = self._doubled = 0
        self._capped = False

    def outcome(self, seconds: float) -> Retained:
        """What it came to."""
        return Retained(
            pieces=tuple(self._pieces),
            dropped=sum(one.dropped or 0 for one in self._pieces),
            waiting=self._waiting,
            doubled=self._doubled,
            capped=self._capped,
            failed=self._failed,
            dry_run=self._dry_run,
            seconds=seconds,
        )

    async def of(self, series: Series) -> bool:
        """Everything due of one series; False when the run may let no more go."""
        now_ms, days = self._clock.now_ms(), self._retention.kept_days(series)
        if days is None:
            return True
        quiet = None if self._force else self._retention.quiet(series, now_ms)
        if quiet is not None:
            self._waiting += quiet
            return True
        waiting, done = self._waiting, len(self._pieces) + len(self._failed)
        try:
            async for piece in self._retention.due(series, days, now_ms):
                if self._rows >= self._retention._rows_max:
                    self._capped = True
                    return False
                await self._piece(series, piece, days, now_ms)
        except Corrupt as error:
            self._fail(series, error)
        if done == len(self._pieces) + len(self._failed) and not self._force:
            self._retention.note_quiet(series, self._waiting - waiting, days, now_ms)
        return True

    async def _piece(self, series: Series, piece: Span, days: int, now_ms: int) -> None:
        one = Piece(series=series.id, start_ms=piece.start_ms, end_ms=piece.end_ms, kept_days=days, rows=None)
        try:
            if not self._force and await self._retention.waits(series, piece, now_ms - days * DAY_MS):
                self._waiting += 1
                return
            if self._dry_run:
                found: Piece | None = replace(one, rows=await self._store.count(series, piece))
            else:
                found = await self._let_go(series, piece, one)
        except Corrupt as error:
            self._fail(series, error)
            return
        if found is None:
            self._waiting += 1
            return
        self._rows += found.rows or 0
        self._pieces.append(found)

    def _fail(self, series: Series, error: Corrupt) -> None:
        self._failed[series.id] = str(error)
        _log.error("rows stay: they cannot be certified", series=series.id, reason=str(error))

    async def _let_go(self, series: Series, piece: Span, one: Piece) -> Piece | None:
        """The piece, as it went; None where rows came into it while it was certified: then it stays."""
        begun = await self._begin(series, piece, one)
        await self._records.keep_lineage([begun])
        held = await self._store.count(series, piece)
        if begun.rows_in not in (None, held):
            await self._stays(begun, held)
            return None
        dropped = await self._drop(series, begun)
        return replace(one, rows=begun.rows_in, dropped=dropped, certificate=begun.details["certificate"])

    async def _drop(self, series: Series, begun: LineageRecord, *, again: bool = False) -> int:
        """What was written down is done, and written down as done. again: some of it may have gone before."""
        piece, gone = Span(begun.start_ms, begun.end_ms), _gone(begun)
        await self._enter(series, gone)
        dropped = await self._store.drop(series, piece)
        await self._enter(series, gone)  # an audit that saw the rows a moment ago has forgotten it
        if again:
            dropped = begun.rows_in or dropped
        elif begun.rows_in not in (None, dropped):
            _log.warning("others went than were certified", series=series.id, went=dropped, certified=begun.rows_in)
        done = replace(begun, rows_out=0, details={**begun.details, "dropped": dropped}, at_ms=self._clock.now_ms())
        await self._records.keep_lineage([done])
        self._retention.rows[series.dataset] += dropped
        _log.info(
            "let go by retention",
            series=series.id,
            start_ms=piece.start_ms,
            end_ms=piece.end_ms,
            rows=dropped,
            certificate=begun.details["certificate"],
        )
        return dropped

    async def finish_begun(self) -> None:
        """What an earlier run wrote down and did not get to; where rows came since, they stay."""
        found, _ = await self._records.lineage(limit=_BEGUN_MAX, transformation=TRANSFORMATION, under_way=True)
        for begun in found:
            series, piece = parse_series(begun.series, DATASETS, ""), Span(begun.start_ms, begun.end_ms)
            if await self._retention.waits(series, piece, begun.at_ms):
                await self._stays(begun, await self._store.count(series, piece))
            else:
                await self._drop(series, begun, again=True)

    async def _stays(self, begun: LineageRecord, rows: int) -> None:
        """Rows came since it was written down that it goes: nothing of it went."""
        await self._records.keep_lineage([replace(begun, rows_out=rows, details={**begun.details, "dropped": 0})])

    async def _begin(self, series: Series, piece: Span, one: Piece) -> LineageRecord:
        try:
            certificate = await self._certificate(series, piece)
        except Corrupt:
            if not self._force:
                raise
            certificate = None
        return _record(one, certificate, by=self._retention._by, forced=self._force, now_ms=self._clock.now_ms())

    async def _certificate(self, series: Series, piece: Span) -> Certificate:
        """That the rows are certified as they are now: the newest certificate of the piece, or a new one."""
        read = await self._retention._certifier.read(series, piece)
        self._doubled += read.offences.get(DOUBLED, 0)
        held, _ = await self._records.certificates(limit=100, series=series.id, span=piece)
        for one in held:
            if (one.start_ms, one.end_ms) == (piece.start_ms, piece.end_ms):
                if _same(one, read):
                    return one
                break
        return await self._retention._certifier.issue(series, piece, read, truth=self._records)

    async def _enter(self, series: Series, gone: LetGo) -> None:
        """Into what is known of the series, so that no audit takes it for a hole; findings about it are over."""
        for _ in range(_TRIES):
            [truth] = await self._records.truths([series.id]) or [SeriesTruth(series=series.id)]
            if grown(truth.let_go, [gone]) == truth.let_go:
                return
            now_ms = self._clock.now_ms()
            entering = Entering(truth, now_ms)
            entering.enter_let_go(gone)
            mark = truth.mark or Mark(looked_ms=0, swept_ms=0)
            try:
                await self._records.keep_truths([entering.change(mark)])
            except LeaseLost:
                raise
            except Conflict:
                continue  # an audit came first: enter it into what that one left
            over = await self._in_dispute(series, gone, now_ms)
            self._retention._reporter.report([*changes_of(series.id, entering, truth.flaws, now_ms), *over])
            return
        raise Unavailable(f"{series.id} is being audited all the time: its retention has to wait")

    async def _in_dispute(self, series: Series, gone: LetGo, now_ms: int) -> list[Finding]:
        """Findings of rows that were told otherwise, and went: they are over."""
        found, _ = await self._records.findings(
            limit=_DISPUTED_MAX, kind=FindingKind.DIFFERS, series=series.id, open_only=True
        )
        return [one.resolved(now_ms, now_ms) for one in found if gone.start_ms <= one.start_ms < gone.end_ms]


def _same(held: Certificate, read: Read) -> bool:
    return (held.contents.form, held.contents.content) == (read.contents.form, read.contents.content)


def _record(one: Piece, certificate: Certificate | None, *, by: str, forced: bool, now_ms: int) -> LineageRecord:
    contents = None if certificate is None else certificate.contents
    named = "none" if certificate is None else certificate.id
    return LineageRecord(
        id=lineage_id(TRANSFORMATION, one.series, one.start_ms, one.end_ms, named, now_ms),
        series=one.series,
        transformation=TRANSFORMATION,
        start_ms=one.start_ms,
        end_ms=one.end_ms,
        rows_in=None if contents is None else contents.rows,
        rows_out=None,
        details={
            "certificate": None if certificate is None else certificate.id,
            "first_key": None if contents is None else contents.first_key,
            "last_key": None if contents is None else contents.last_key,
            "kept_days": one.kept_days,
            "forced": forced,
            "by": by,
        },
        at_ms=now_ms,
    )


def _gone(begun: LineageRecord) -> LetGo:
    """What the audit is to know. Where the keys could not be read, it is told by time alone."""
    first, last = begun.details["first_key"], begun.details["last_key"]
    if not (isinstance(first, int) and isinstance(last, int)):
        first, last = 0, 2**63 - 1
    return LetGo(begun.start_ms, begun.end_ms, first, last)
