"""What the bus let go, as findings: which series, from when to when, how many events.

A payload that a full buffer lets go is decoded once more on its way out, so that the hole it leaves has a series and a
span that a source can be asked for. What nobody could read (messages the server discarded, or that passed while we
were away) is a finding without a series, in our clock's time. An absence is also, as soon as a series is heard again, a
finding of that series in the dataset's time, unless its rows show that nothing is absent: see absence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Rejected
from data_manager.domain.events import Event, Outcome
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import Clock, Delivery, Dropped, Extent
from data_manager.services.ingesting.absence import Absences, Gap
from data_manager.services.ingesting.buffer import Rows

_SERIES_MAX: Final = 10_000  # that lose events at the same time; those beyond share a finding without a series
_QUIET_TURNS: Final = 10  # so often nothing more was let go: what comes next is another finding

_Named = tuple[Dataset, str, str | None] | None  # dataset, symbol and interval; None: nobody knows
_Key = tuple[_Named, str]  # and why
_OVERFLOW: Final = "overflow"
_SHED: Final = "shed"


class Losses:
    """Collects what was let go until findings() is asked for. Every event is counted in exactly one finding."""

    def __init__(
        self,
        decode: Callable[[bytes, int], Sequence[Outcome]],
        dataset_of: Mapping[type, Dataset],
        market: str,
        clock: Clock,
    ) -> None:
        self._decode = decode
        self._dataset_of = dataset_of
        self._market = market
        self._clock = clock
        self._losses: dict[_Key, _Loss] = {}
        self._found: list[Finding] = []
        self._unseen: dict[str, Dropped] = {}  # why -> the newest, with those that began at the same instant
        self._absences = Absences()

    def resume(self, held: Mapping[Series, Extent], missed: Dropped | None = None) -> None:
        """What the store holds before we store anything: an absence may have begun when an earlier run ended.

        missed: that absence, if it has ended by now.
        """
        self._absences.resume(held, None if missed is None else missed.last_ms)

    def away(self, drop: Dropped) -> None:
        """The bus listens again after an absence: tell it before anything that came afterwards is stored."""
        self._absences.note(drop.last_ms)

    def saw(self, batch: Batch) -> None:
        """These rows were stored."""
        self._found += [self._absent(gap, batch.dataset) for gap in self._absences.saw(batch)]

    def let_go(self, delivery: Delivery) -> None:
        """This was dropped unread, for want of room."""
        for outcome in self._decode(delivery.payload, delivery.received_ms):
            dataset = self._dataset_of.get(type(outcome))
            if dataset is not None and isinstance(outcome, Event):
                interval: str | None = outcome.interval if dataset.has_interval else None  # type: ignore[attr-defined]  # such events have one
                self._count((dataset, outcome.symbol, interval), _time_ms(dataset, outcome), delivery)
            elif isinstance(outcome, Rejected):
                self._count(None, delivery.received_ms, delivery)

    def shed(self, dataset: Dataset, rows: Rows) -> None:
        """These were let go because the store is about to be full."""
        for event, delivery in zip(rows.events, rows.deliveries, strict=True):
            interval = event.interval if dataset.has_interval else None
            self._count((dataset, event.symbol, interval), _time_ms(dataset, event), delivery, _SHED)

    def note(self, drops: Sequence[Dropped]) -> None:
        """The bus reports these; those it showed to let_go are known better already."""
        for drop in drops:
            if drop.shown < drop.count or drop.count == 0:
                whole = self._with_earlier(drop)
                self._unseen[drop.why] = whole
                self._found.append(self._unseen_finding(whole))

    def findings(self) -> list[Finding]:
        """What is new or has grown since the last call. Call it about once a second."""
        news, self._found = self._found, []
        for key, loss in list(self._losses.items()):
            if loss.grown:
                news.append(self._finding(key, loss))
                loss.grown, loss.told, loss.quiet_turns = False, True, 0
            else:
                loss.quiet_turns += 1
                if loss.quiet_turns >= _QUIET_TURNS:
                    del self._losses[key]
        return news

    def _with_earlier(self, drop: Dropped) -> Dropped:
        """What nobody saw of it, together with what was told before and began at the same instant."""
        earlier = self._unseen.get(drop.why)
        if earlier is None or earlier.first_ms != drop.first_ms:
            earlier = Dropped(0, drop.first_ms, drop.last_ms, drop.why)
        count = earlier.count + drop.count - drop.shown
        return Dropped(count, drop.first_ms, max(earlier.last_ms, drop.last_ms), drop.why)

    def _count(self, named: _Named, time_ms: int, delivery: Delivery, why: str = _OVERFLOW) -> None:
        key = (named, why)
        loss = self._losses.get(key)
        if loss is None and named is not None and len(self._losses) >= _SERIES_MAX:
            self._count(None, delivery.received_ms, delivery, why)
            return
        if loss is not None and loss.told and time_ms < loss.start_ms:  # the start names a finding: it cannot move
            if loss.grown:
                self._found.append(self._finding(key, loss))
            loss = None
        if loss is None:
            loss = self._losses[key] = _Loss(time_ms, delivery.received_ms)
        loss.add(time_ms, delivery.received_ms)

    def _finding(self, key: _Key, loss: _Loss) -> Finding:
        named, why = key
        dataset, symbol, interval = named or (None, "", None)
        return found(
            FindingKind.SHED if why == _SHED else FindingKind.DROPPED,
            series=None if dataset is None else Series(self._market, dataset.name, symbol, interval).id,
            stream=None if dataset is None else dataset.wire,
            severity="critical",
            start_ms=loss.start_ms,
            end_ms=loss.last_ms + 1,
            evidence={
                "events": loss.events,
                "first_received_ms": loss.first_received_ms,
                "last_received_ms": loss.last_received_ms,
                "why": why,
            },
            found_ms=self._clock.now_ms(),
        )

    def _absent(self, gap: Gap, dataset: Dataset) -> Finding:
        hole = gap.hole
        return found(
            FindingKind.DROPPED,
            series=gap.series.id,
            stream=dataset.wire,
            severity="critical",
            start_ms=hole.start_ms,
            end_ms=hole.end_ms,
            evidence={
                "events": None,  # nobody saw them
                "why": "away",
                "after_key": hole.after,
                "before_key": hole.before,
                "absent": hole.missing,
            },
            found_ms=self._clock.now_ms(),
        )

    def _unseen_finding(self, drop: Dropped) -> Finding:
        discarded = drop.why == "discarded"
        return found(
            FindingKind.DISCARDED if discarded else FindingKind.DROPPED,
            severity="critical",
            start_ms=drop.first_ms,
            end_ms=max(drop.last_ms, drop.first_ms) + 1,
            evidence={"events": drop.count or None, "why": drop.why},  # None: nobody knows how many
            found_ms=self._clock.now_ms(),
        )


class _Loss:
    """Events of one series that were let go shortly after each other."""

    __slots__ = (
        "events", "first_received_ms", "grown", "last_ms", "last_received_ms", "quiet_turns", "start_ms", "told",
    )  # fmt: skip

    def __init__(self, time_ms: int, received_ms: int) -> None:
        self.events = 0
        self.start_ms = self.last_ms = time_ms
        self.first_received_ms = self.last_received_ms = received_ms
        self.grown = False  # since it was last told
        self.told = False
        self.quiet_turns = 0

    def add(self, time_ms: int, received_ms: int) -> None:
        """One event more."""
        self.events += 1
        self.grown = True
        self.last_received_ms = received_ms
        if time_ms > self.last_ms:
            self.last_ms = time_ms
        elif time_ms < self.start_ms:
            self.start_ms = time_ms


def _time_ms(dataset: Dataset, event: Event) -> int:
    """When the row would lie in its series; of a state that may still change (an open candle), when it was said."""
    if dataset.live is not None and not getattr(event, dataset.live):
        said_ms: int | None = getattr(event, "event_ms", None)
        if said_ms is not None:
            return said_ms
    time_ms: int = getattr(event, dataset.time)
    return time_ms
