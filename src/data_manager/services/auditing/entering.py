"""What an audit of one series changes: coverage, ledger and flaws as they stand after each page, and what to write."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from data_manager.domain.checks.crosscheck import Difference
from data_manager.domain.checks.rules import Offence
from data_manager.domain.condition.coverage import Audited, Result, added, without
from data_manager.domain.condition.partition import EVER, Flaw, Life
from data_manager.domain.condition.truth import Mark, SeriesTruth, TruthChange
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.finding import Evidence, FindingKind
from data_manager.domain.holes.changes import ChangeKind, reconciled
from data_manager.domain.holes.continuity import Hole
from data_manager.domain.holes.ledger import HoleState, LedgerEntry, moved
from data_manager.domain.retention import LetGo, grown, spans_of, still_gone, unexplained
from data_manager.domain.span import Span, difference, intersection
from data_manager.domain.time import MINUTE_MS

RULE_VERSION: Final = 4
"""Of the rules an audit judges by. Raise it when they change: what older ones said is then unverified, until the next
audit has looked at all of it. 2: times of rows are held against when we received them. 3: silence is held against the
series' own pauses. 4: of times that go up and down as few rows as possible are blamed."""

SURE_AFTER_MS: Final = 10 * MINUTE_MS
"""Rows that should have come so long ago are not on their way any more: such a hole is open at once."""

UNLIKE: Final = "unlike "
"""How the reason of a flaw begins that other rows of the same facts told: the dataset and interval of these follow."""

DISPUTED: Final = FindingKind.DIFFERS.value
"""Why a row is degraded that somebody told otherwise: a stream when it came again, or a source that was asked."""

_BY_KEY: Final = ("ids", "chain")  # kinds of holes that keys alone prove
_FLAWS_MAX: Final = 1_000
_PIECES_MAX: Final = 200  # holes of one page that are told apart in the coverage


class Entering:
    """One audit of one series on its way into the store. before: the ledger as it stood, by id."""

    def __init__(self, truth: SeriesTruth, now_ms: int) -> None:
        self.before = {entry.id: entry for entry in truth.holes}
        self.coverage: Sequence[Audited] = truth.coverage
        self.flaws = list(truth.flaws)
        self.lifted: list[Flaw] = []  # flaws that are no more
        self.evidence: dict[Flaw, Evidence] = {}  # what more there is to say of some
        self.let_go = truth.let_go
        self.judged_until_ms: int | None = None
        self._truth = truth
        self._now_ms = now_ms
        # Coverage is added in the order of time, even when our clock was set back.
        self._audited_ms = max([now_ms, *(one.audited_ms + 1 for one in truth.coverage)])
        self._ledger = dict(self.before)
        self._written: dict[str, LedgerEntry] = {}

    @property
    def version(self) -> int:
        """Of the series as it stands once this is written."""
        return self._truth.version + 1

    @property
    def ledger(self) -> list[LedgerEntry]:
        """All entries as they stand now, in order of time."""
        return sorted(self._ledger.values(), key=lambda entry: entry.start_ms)

    def enter(self, span: Span, holes: Sequence[Hole]) -> None:
        """What an audit found in the span it could speak for. What went by retention is no hole."""
        if self.let_go:
            gone = self.let_go
            self.let_go = still_gone(gone, span, holes)
            holes = unexplained(holes, gone, DATASETS[self._truth.series.split(".")[1]].continuity)
        spans = spans_of(self.let_go)
        for part in difference([span], spans):
            self._reconcile(part, [one for one in holes if one.start_ms < part.end_ms and one.end_ms > part.start_ms])
        self._cover(without(_results(span, holes, self._audited_ms), spans))
        self.judged_until_ms = max(span.end_ms, self.judged_until_ms or span.end_ms)

    def enter_let_go(self, gone: LetGo) -> None:
        """These rows went by retention: nothing else is said of them any more."""
        self.let_go = grown(self.let_go, [gone])
        spans = spans_of(self.let_go)
        self.coverage = without(self.coverage, spans)
        self.lifted += [one for one in self.flaws if not difference([Span(one.start_ms, one.end_ms)], spans)]
        self.flaws = [one for one in self.flaws if one not in self.lifted]
        for entry in self.ledger:
            if not difference([entry.span], spans):
                del self._ledger[entry.id]

    def live_by(self, life: Life) -> None:
        """Holes of instants in which no rows could exist were none."""
        if life != EVER:
            self._forget(lambda entry: not life.expected(entry.span))

    def not_yet(self, until_ms: int) -> None:
        """Nor is there reason to suspect any beyond what can be judged now: our clock was ahead."""
        self._forget(lambda entry: entry.state is HoleState.SUSPECTED and entry.start_ms >= until_ms)

    def _forget(self, none: Callable[[LedgerEntry], bool]) -> None:
        for entry in self.ledger:
            if entry.live and entry.kind not in _BY_KEY and none(entry):
                del self._ledger[entry.id]
                self._written.pop(entry.id, None)

    def enter_unknown(self, span: Span) -> None:
        """The audit of the span could not be done."""
        self._cover([Audited(span.start_ms, span.end_ms, Result.UNKNOWN, RULE_VERSION, self._audited_ms)])

    def enter_checks(self, span: Span, offences: Iterable[Offence]) -> None:
        """All that the checks blame among the rows of a span; what they blamed before is over."""
        found = {Flaw(one.start_ms, one.end_ms, one.rule) for one in offences if one.severity != "info"}
        self._replace(
            span, found, lambda one: not (one.lost or one.reason.startswith(UNLIKE) or one.reason == DISPUTED)
        )

    def enter_differences(self, span: Span, source: Series, differences: Iterable[Difference]) -> None:
        """All rows of a span that disagree with those of another series; what disagreed with it before is over."""
        reason = f"{UNLIKE}{source.dataset}{f'.{source.interval}' if source.interval else ''}"
        found = set()
        for one in differences:
            flaw = Flaw(one.start_ms, one.end_ms, reason)
            if flaw not in found:
                found.add(flaw)
                told: Evidence = {"field": one.field, "held": one.held, "computed": one.computed, "by": one.source}
                self.evidence[flaw] = told
        self._replace(span, found, lambda one: one.reason == reason)

    def _replace(self, span: Span, found: set[Flaw], mine: Callable[[Flaw], bool]) -> None:
        """The flaws that are mine and begin in the span are these now."""
        inside = [one for one in self.flaws if span.start_ms <= one.start_ms < span.end_ms and mine(one)]
        self.lifted += [one for one in inside if one not in found]
        kept = [one for one in self.flaws if one not in inside]
        self.flaws = sorted([*kept, *found], key=lambda one: (one.start_ms, one.end_ms, one.reason))[-_FLAWS_MAX:]

    def disputed(self, flaws: Sequence[Flaw]) -> None:
        """Rows that somebody told otherwise are these now: a finding says so already."""
        others = [one for one in self.flaws if one.reason != DISPUTED]
        if flaws or len(others) < len(self.flaws):
            found = sorted({*others, *flaws}, key=lambda one: (one.start_ms, one.end_ms, one.reason))
            self.flaws = found[-_FLAWS_MAX:]

    def lost(self, flaws: Sequence[Flaw]) -> None:
        """What is known to be lost and no rule can see."""
        known = {one for one in self.flaws if one.lost}
        self.flaws += [one for one in flaws if one not in known]

    def keep_within(self, span: Span | None) -> None:
        """Forget what was said of instants of which no rows are held any more."""
        covered = self.coverage
        if span and covered and span.start_ms <= covered[0].start_ms and covered[-1].end_ms <= span.end_ms:
            return
        spans = [] if span is None else [span]
        self.coverage = [
            Audited(part.start_ms, part.end_ms, one.result, one.rule_version, one.audited_ms)
            for one in self.coverage
            for part in intersection([Span(one.start_ms, one.end_ms)], spans)
        ]

    def undecided_since_ms(self) -> int | None:
        """The earliest start of a hole that another audit has to confirm, or whose end nobody knows yet."""
        until_ms = self.judged_until_ms
        undecided = [
            one.start_ms
            for one in self._ledger.values()
            if one.state is HoleState.SUSPECTED or (one.live and until_ms is not None and one.end_ms >= until_ms)
        ]
        return min(undecided, default=None)

    def changed_before(self, ms: int) -> bool:
        """Whether an entry of the ledger that begins before that is new, differs, or is no more."""
        gone = [self.before[number] for number in self.before.keys() - self._ledger.keys()]
        return any(one.start_ms < ms for one in (*self._written.values(), *gone))

    def change(self, mark: Mark) -> TruthChange:
        """What to write."""
        return TruthChange(
            series=self._truth.series,
            version=self._truth.version,
            mark=mark,
            coverage=tuple(self.coverage),
            flaws=tuple(self.flaws),
            let_go=self.let_go,
            entries=tuple(self._written.values()),
            absorbed=tuple(self.before.keys() - self._ledger.keys()),
            afresh=self._truth.unreadable is not None,
        )

    def truth(self, mark: Mark) -> SeriesTruth:
        """The series as it stands once the change is written."""
        return SeriesTruth(
            series=self._truth.series,
            version=self.version,
            mark=mark,
            coverage=tuple(self.coverage),
            flaws=tuple(self.flaws),
            let_go=self.let_go,
            holes=tuple(self.ledger),
        )

    def _cover(self, pieces: Sequence[Audited]) -> None:
        self.coverage = added(self.coverage, pieces)

    def _reconcile(self, span: Span, holes: Sequence[Hole]) -> None:
        near = [one for one in self._ledger.values() if one.start_ms <= span.end_ms and one.end_ms >= span.start_ms]
        for change in reconciled(near, span, holes, series=self._truth.series, now_ms=self._now_ms):
            for old in change.absorbed:
                self._ledger.pop(old, None)
                self._written.pop(old, None)
            entry = self._sure(change.entry)
            self._ledger[entry.id] = entry
            if change.kind is not ChangeKind.UNCHANGED or entry is not change.entry:
                self._written[entry.id] = entry

    def _sure(self, entry: LedgerEntry) -> LedgerEntry:
        if entry.state is HoleState.SUSPECTED and entry.end_ms <= self._now_ms - SURE_AFTER_MS:
            why = "its rows should have come long ago"
            return moved(entry, HoleState.OPEN, at_ms=self._now_ms, by="audit", why=why)
        return entry


def _results(span: Span, holes: Sequence[Hole], audited_ms: int) -> list[Audited]:
    """FAIL where rows are missing, PASS elsewhere; FAIL for all of it where there are too many places to tell."""
    failed = intersection((Span(hole.start_ms, hole.end_ms) for hole in holes), [span])
    if len(failed) > _PIECES_MAX:
        failed = [span]
    pieces = [(part, Result.PASS) for part in difference([span], failed)] + [(part, Result.FAIL) for part in failed]
    return [Audited(part.start_ms, part.end_ms, result, RULE_VERSION, audited_ms) for part, result in pieces]
