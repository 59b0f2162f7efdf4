"""Watch: is anything silent, late or unreadable that used to come? Judged every second, per stream and per series.

    silence        nothing for silence_s of listening (longer where the dataset itself is slower)    once it was heard
    silence of everything    the bus is away: one finding without series and stream, and none for each of them
    stale          even the freshest row of a second was received late_ms after it happened
    parse errors   more than refused_max events refused for one reason within the last minute

A judgement must come out the same turns times in a row before a finding is raised, and again before it is resolved.

Time is counted as listening: only while judgements follow each other, the bus is there and appends go through. An event
loop that stood still, a bus or a store that was away therefore make nothing silent, and when the bus is back everything
has its whole silence_s again. For as long as we were held up, what then comes may be so much later: that is our doing.
The span of a finding is in our clock's time, exact to about a second.

A row older than a day when it comes is history on the live subject (a replay), not a late row: it says that the stream
lives and nothing about its lag. An offset between our clock and the venue's counts as lag, or hides it; that is why a
row may be late by much more than clocks are off. An offset that appears at once is noticed: when our clock is set
(its time of day moves on and the monotonic clock does not), lags are judged by the setting that makes sense of them.

Where several replicas write to one store, what one of them does not hear another may: before a series is called
silent, and now and then while it is, the store is asked for its newest row (unsure, told). A replica that hears nothing
of a series that is stored all the same says nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import structlog

from data_manager.domain.batch import Batch, empty, event_ms_of, joined
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.finding import Evidence, Finding, FindingKind, found
from data_manager.domain.time import DAY_MS
from data_manager.domain.values.columns import Ints, Mask
from data_manager.ports import Clock, MetaStore, SeriesStore
from data_manager.services.watched import EVERYTHING, NO_LAG, Subject, Subjects, Times, Verdicts
from data_manager.telemetry import Tally

WATCHED: Final = (FindingKind.SILENCE, FindingKind.STALE, FindingKind.PARSE_ERRORS)
"""The kinds that are raised and resolved here."""

_MINUTE_TURNS: Final = 60
_LEFT_OPEN_MAX: Final = 20_000  # of a kind
_STEP_MAX_S: Final = 2.0  # what is longer between two judgements, we did not listen
_SET_MIN_MS: Final = 1_000  # so far apart in one step, the two clocks did not drift: one was set
_ASKED_MAX: Final = 10  # series that the store is asked about in one go
_AHEAD_MAX_MS: Final = 5_000  # rows do not come sooner before they happen: then it is our clock that is behind
_log = structlog.get_logger(__name__)


class Rules(NamedTuple):
    """When something is wrong. turns: judgements in a row that must agree."""

    silence_s: float = 60.0
    late_ms: int = 30_000
    refused_max: int = 5
    turns: int = 3
    subjects_max: int = 20_000


class Watch:
    """Give it every batch that was stored, and ask it for judgement every second."""

    def __init__(
        self,
        clock: Clock,
        tally: Tally,
        report: Callable[[Sequence[Finding]], None],
        rules: Rules | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """shared: others write to the same store, so that it has to be asked before a series is called silent."""
        self._clock = clock
        self._tally = tally
        self._report = report
        self._rules = rules or Rules()
        self._shared = shared
        self._subjects = Subjects(self._rules.silence_s, self._rules.subjects_max)
        self._verdicts = {kind: Verdicts(self._rules.turns) for kind in WATCHED}
        self._open: dict[tuple[FindingKind, Subject], list[Finding]] = {}
        self._refused = deque([tally.refused.copy()], maxlen=_MINUTE_TURNS + 1)
        self._refused_of: deque[Counter[tuple[str, str]]] = deque(maxlen=_MINUTE_TURNS)  # by series, turn by turn
        self._listened_s = 0.0
        self._held_up_s = 0.0  # not listened, less what was listened since
        self._away: str | None = None
        self._set_ms = 0  # by so much our clock was set since the start
        self._judged_s, self._judged_ms = clock.monotonic_s(), clock.now_ms()
        self._flushes = 0

    def saw(self, batch: Batch) -> None:
        """These rows were stored."""
        self._subjects.heard_of(batch, self._listened_s)

    def adopt(self, findings: Sequence[Finding]) -> None:
        """Findings left open by an earlier run: they end when things are well again, which is not known yet."""
        for finding in findings:
            subject = _subject(finding)
            if finding.kind in WATCHED and subject is not None:
                self._open.setdefault((finding.kind, subject), []).append(finding)
                self._verdicts[finding.kind].presume(self._subjects.slot_of(subject))

    def judge(self, away: str | None = None) -> None:
        """Look at everything once; raise and resolve what turned out the same often enough. Call it every second.

        away: why nothing can come at present (the bus's reason), None when it can.
        """
        now_ms = self._clock.now_ms()
        self._note_clock(now_ms)
        self._listen(away)
        self._subjects.sum_streams()
        delays = self._delays()
        late_ms = self._rules.late_ms + self._held_up_s * 1_000
        bad = {
            FindingKind.SILENCE: self._silent(),
            FindingKind.STALE: (delays > late_ms, delays < DAY_MS),
            FindingKind.PARSE_ERRORS: (self._unreadable(), None),
        }
        news: list[Finding] = []
        for kind, (wrong, known) in bad.items():
            verdicts = self._verdicts[kind]
            for slot in verdicts.turn(wrong, known, now_ms):
                news += self._raise(kind, slot, now_ms) if verdicts.raised[slot] else self._resolve(kind, slot, now_ms)
        self._subjects.begin_turn()
        for kind, verdicts in self._verdicts.items():
            self._tally.findings_open[kind.value] = int(verdicts.raised.sum())
        self._report(news)

    def unsure(self, most: int) -> list[Series]:
        """Series that are silent as far as we heard, and of which the store is to be asked: tell their answers."""
        if not self._shared or self._away is not None:
            return []
        return self._subjects.to_ask(self._listened_s, self._verdicts[FindingKind.SILENCE].raised, most)

    def told(self, series: Series, rows: Batch) -> None:
        """What the store holds last of a series, whoever stored it: one row, some, or none."""
        slot = self._subjects.slot_of(series)
        if slot is None:
            return
        self._subjects.asked_s[slot] = self._listened_s
        if len(rows):
            received = rows.columns["received_ms"]
            assert isinstance(received, Ints)
            received_ms, event_ms = int(received.values.max()), int(event_ms_of(rows).max())
            ago_s = max(self._clock.now_ms() - received_ms, 0) / 1_000
            self._subjects.stored_elsewhere(slot, event_ms, received_ms, self._listened_s - ago_s)

    def series_facts(self) -> list[dict[str, str | int | None]]:
        """What is known of every series heard of since the start, sorted by id."""
        return [self._fact(slot, subject) for subject, slot in self._subjects.series()]

    def _fact(self, slot: int, series: Series) -> dict[str, str | int | None]:
        event_ms = int(self._subjects.event_ms[slot])
        return {
            "series": series.id,
            "last_event_ms": event_ms if event_ms >= 0 else None,
            "events": int(self._subjects.rows[slot]),
            "state": self._state(slot),
        }

    def _state(self, slot: int) -> Literal["silent", "stale", "live", "unknown"]:
        """unknown: nothing of it could be stored yet."""
        if self._verdicts[FindingKind.SILENCE].is_raised(slot):
            return "silent"
        if self._verdicts[FindingKind.STALE].is_raised(slot):
            return "stale"
        return "live" if self._subjects.heard_s[slot] > -np.inf else "unknown"

    def _listen(self, away: str | None) -> None:
        """Count the time since the last judgement, unless we could not have heard anything in it."""
        now_s, flushes = self._clock.monotonic_s(), self._tally.flushes
        stuck = flushes == self._flushes and self._tally.rows_in_flight() > 0
        step_s = now_s - self._judged_s
        heard_s = 0.0 if stuck or away is not None else min(step_s, _STEP_MAX_S)
        self._listened_s += heard_s
        self._held_up_s = max(self._held_up_s + step_s - 2 * heard_s, 0.0)
        if self._away is not None and away is None:
            self._subjects.forgive(self._verdicts[FindingKind.SILENCE].raised, self._listened_s)
        self._judged_s, self._flushes, self._away = now_s, flushes, away

    def _note_clock(self, now_ms: int) -> None:
        """See whether our clock was set since the last judgement; instants we remember then mean others."""
        step_ms = round((self._clock.monotonic_s() - self._judged_s) * 1_000)
        set_ms = now_ms - self._judged_ms - step_ms
        self._judged_ms = now_ms
        if abs(set_ms) < _SET_MIN_MS:
            return
        _log.warning("our clock was set", by_ms=set_ms)
        self._set_ms += set_ms
        self._subjects.move(set_ms, self._listened_s, now_ms)
        for verdicts in self._verdicts.values():
            verdicts.since_ms += set_ms

    def _delays(self) -> Times:
        """Lags of this turn by the setting of our clock that makes sense: nothing comes long before it happens, and of
        two settings the one that had been right made the stream look fresh. NO_LAG where nothing came."""
        lags = self._subjects.lag_ms[: len(self._subjects)]
        if self._set_ms == 0:
            return lags
        unset = np.where(lags == NO_LAG, 0, lags) - self._set_ms
        sensible = np.where(unset < -_AHEAD_MAX_MS, lags, np.minimum(lags, unset))
        delays: Times = np.where(lags == NO_LAG, NO_LAG, np.where(lags < -_AHEAD_MAX_MS, unset, sensible))
        return delays

    def _silent(self) -> tuple[Mask, Mask]:
        """Masks of what is silent and of what that is known of: with the bus away, only of everything."""
        subjects, away = self._subjects, self._away is not None
        silent, known = subjects.silent(self._listened_s), subjects.heard() & (not away)
        if self._shared:
            known &= ~subjects.unasked(silent)
        silent[subjects.everything], known[subjects.everything] = away, True
        return silent, known

    def _unreadable(self) -> Mask:
        """Mask of the streams and series with more refused events of one reason within a minute than may be."""
        self._refused.append(self._tally.refused.copy())
        self._refused_of.append(self._tally.refused_of)
        self._tally.refused_of = Counter()
        bad = {
            self._subjects.slot_of(subject)
            for (subject, _), count in self._refused_lately().items()
            if count > self._rules.refused_max
        }
        mask = np.zeros(len(self._subjects), np.bool_)
        mask[[slot for slot in bad if slot is not None]] = True
        return mask

    def _refused_lately(self) -> dict[tuple[Subject, str], int]:
        """How many events of a stream or series were refused for a reason within the last minute."""
        by_series: Counter[tuple[str, str]] = Counter()
        for turn in self._refused_of:
            by_series.update(turn)
        streams = self._refused[-1] - self._refused[0]
        lately: dict[tuple[Subject, str], int] = {(stream, reason): n for (stream, reason), n in streams.items()}
        for (series, reason), count in by_series.items():
            if count > self._rules.refused_max:
                lately[parse_series(series, DATASETS, ""), reason] = count
        return lately

    def _raise(self, kind: FindingKind, slot: int, now_ms: int) -> list[Finding]:
        subject = self._subjects.names[slot]
        series = subject if isinstance(subject, Series) else None
        finding = found(
            kind,
            series=None if series is None else series.id,
            stream=DATASETS[series.dataset].wire if series is not None else str(subject) or None,
            severity="critical" if kind is FindingKind.SILENCE and series is None else "warning",
            start_ms=self._start_ms(kind, slot, now_ms),
            evidence=self._evidence(kind, slot),
            found_ms=now_ms,
        )
        self._open.setdefault((kind, subject), []).append(finding)
        return [finding]

    def _resolve(self, kind: FindingKind, slot: int, now_ms: int) -> list[Finding]:
        since_ms = int(self._verdicts[kind].since_ms[slot])
        ending = self._open.pop((kind, self._subjects.names[slot]), [])
        return [one.resolved(max(now_ms, one.found_ms), since_ms) for one in ending]

    def _start_ms(self, kind: FindingKind, slot: int, now_ms: int) -> int:
        """Silence of what was heard began with its last row; everything else when it was first judged so."""
        quiet = kind is FindingKind.SILENCE and self._subjects.names[slot] != EVERYTHING
        array = self._subjects.received_ms if quiet else self._verdicts[kind].since_ms
        return min(int(array[slot]), now_ms)

    def _evidence(self, kind: FindingKind, slot: int) -> Evidence:
        subject = self._subjects.names[slot]
        if subject == EVERYTHING:
            return {"why": self._away}
        if kind is FindingKind.PARSE_ERRORS:
            return {reason: count for (whose, reason), count in self._refused_lately().items() if whose == subject}
        event_ms = int(self._subjects.event_ms[slot])
        evidence: Evidence = {"last_event_ms": event_ms if event_ms >= 0 else None}
        if kind is FindingKind.STALE:
            evidence["lag_ms"] = int(self._delays()[slot])
        return evidence


async def left_open(meta: MetaStore) -> list[Finding]:
    """Findings of what is raised and resolved as it runs that nobody resolved, if readable. Raises Unavailable."""
    findings: list[Finding] = []
    for kind in (*WATCHED, FindingKind.MISLABELLED):
        try:
            page, _ = await meta.findings(limit=_LEFT_OPEN_MAX, kind=kind, open_only=True)
        except Corrupt as error:
            _log.error("open findings cannot be read: they stay open", kind=kind.value, reason=str(error))
            continue
        findings += page
    return findings


async def ask_about_silence(watch: Watch, store: SeriesStore) -> None:
    """Tell the watch what the store holds last of the series it is unsure of. Raises Unavailable: then it stays so."""
    for series in watch.unsure(_ASKED_MAX):
        try:
            rows = await store.last(series, 1)
            if DATASETS[series.dataset].live is not None:
                rows = joined([rows, await store.live(series)])
        except Corrupt as error:
            _log.error("its newest row cannot be read: it counts as we heard it", series=series.id, reason=str(error))
            rows = empty(DATASETS[series.dataset], (series,))
        watch.told(series, rows)


def _subject(finding: Finding) -> Subject | None:
    """What a finding is about; None where this version does not know such a series."""
    if finding.series is None:
        return finding.stream or EVERYTHING
    try:
        return parse_series(finding.series, DATASETS, "um")
    except BadQuery:
        return None
