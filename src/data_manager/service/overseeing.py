"""Overseeing: what the leader does so that somebody hears of it: the health of all series, kept, and the alerts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from data_manager.adapters.clock import SystemClock
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.health import Health, overall, repairs
from data_manager.domain.time import DAY_MS, SECOND_MS
from data_manager.ports import Lease, MetadataStore
from data_manager.ports.alerts import Channel
from data_manager.service.again import Again
from data_manager.services.alerting.spine import MESSAGES_MAX, Alerting
from data_manager.services.conditions import Conditions
from data_manager.services.health import HealthBook, SeriesHealth
from data_manager.services.health_log import HealthKeeper
from data_manager.services.periodic import when_due
from data_manager.settings import Settings

CLOCK = SystemClock()
_LOOK_S: Final = 1.0
_ALERTS_S: Final = 2.0
_REST: Final = 10  # a turn of the alerts that takes long is followed by so much longer a pause
_log = structlog.get_logger(__name__)

Lead = Callable[[Callable[[Lease], Awaitable[object]]], Awaitable[bool]]


class Overseeing:
    """Looks at the health of all series, keeps what changed, and sends alerts: while we lead."""

    def __init__(
        self,
        settings: Settings,
        meta: MetadataStore,
        book: HealthBook,
        conditions: Conditions,
        channels: Sequence[Channel],
        lead: Lead,
    ) -> None:
        self.alerting = Alerting(
            meta,
            meta,
            channels,
            CLOCK,
            per_minute=settings.alerts_per_minute,
            hole_from_ms=settings.min_gap_size_seconds * SECOND_MS,
        )
        self._meta = meta
        self._book = book
        self._conditions = conditions
        self._lead = lead
        self._interval_s = settings.health_check_interval
        self._days = settings.health_retention_days
        self._keeper = HealthKeeper()
        self._epoch = 0  # of the lease under which the keeper wrote
        self._rest_until_s = 0.0
        self._every: list[SeriesHealth] | None = None  # as of the last look, while we lead

    def again(self) -> Iterator[Again]:
        """Its turns."""
        yield Again("health", _LOOK_S, when_due(self._interval_s, lambda: self._led(self._look), CLOCK))
        yield Again("alerts", _ALERTS_S, lambda: self._led(self._tell))

    def reason(self) -> str | None:
        """Why alerts do not arrive, in words; None when they do, or when somebody else sends them."""
        return self.alerting.reason() if self._every is not None else None

    async def _led(self, work: Callable[[Lease], Awaitable[object]]) -> bool:
        """Do it if we lead; whether it was done. Damaged metadata is no reason to end: the next turn tries again."""
        try:
            done = await self._lead(work)
        except Corrupt as error:
            raise Unavailable(str(error)) from error
        if not done:
            self._every = None
        return done

    async def _look(self, lease: Lease) -> None:
        """Look at every series, and write what changed."""
        if lease.epoch != self._epoch:  # others wrote meanwhile
            self._keeper, self._epoch = HealthKeeper(), lease.epoch
        log, every, now_ms = self._meta.fenced(lease), await self._book.every(), CLOCK.now_ms()
        self._every = every
        self.alerting.grades.saw(every, now_ms)
        await self._keeper.keep(log, every, [self._conditions.known_of(one.series)[0] for one in every], now_ms)
        if await self._keeper.forget(log, self._days, now_ms):
            await log.forget_alerts(now_ms - self._days * DAY_MS, MESSAGES_MAX)

    async def _tell(self, lease: Lease) -> None:
        started_s = CLOCK.monotonic_s()
        if started_s < self._rest_until_s:
            return
        await self.alerting.turn(self._meta.fenced(lease))
        now_s = CLOCK.monotonic_s()
        self._rest_until_s = now_s + _REST * (now_s - started_s)

    # ---- figures -------------------------------------------------------------------------------------------------

    def figures(self) -> Iterator[Metric]:
        """Health and alerts, by who leads: the others know no more than he does."""
        if self._every is not None:
            yield from _of_health(self._every)
            firing = GaugeMetricFamily("data_manager_alerts_firing", "Alerts that fire.", labels=["severity"])
            for severity in ("warning", "critical"):
                firing.add_metric([severity], self.alerting.firing[severity])
            yield firing
        delivered = CounterMetricFamily(
            "data_manager_alert_deliveries", "Attempts to deliver alerts.", labels=["channel", "outcome"]
        )
        for (channel, outcome), count in self.alerting.attempts.items():
            delivered.add_metric([channel, outcome], count)
        yield delivered


def _of_health(every: Sequence[SeriesHealth]) -> Iterator[Metric]:
    by_dataset: dict[str, list[Health]] = {}
    holes: Counter[str] = Counter()
    for one in every:
        by_dataset.setdefault(one.series.dataset, []).append(one.health)
        holes[one.series.dataset] += one.open_holes
    scores = GaugeMetricFamily(
        "data_manager_audit_health_score", "Mean score of the series whose score is known.", labels=["dataset"]
    )
    standing = GaugeMetricFamily("data_manager_holes_open", "Holes that are not healed.", labels=["dataset"])
    for dataset, known in by_dataset.items():
        score = overall(known).score
        if score is not None:
            scores.add_metric([dataset], score)
        standing.add_metric([dataset], holes[dataset])
    yield scores
    yield standing
    yield _grades([one.health for one in every])
    mended = repairs(one.repair for one in every)
    for name, text, mean_ms in (
        ("mttd", "Mean time until a hole was seen, over 30 days.", mended.mttd_ms),
        ("mttr", "Mean time from then until it was healed.", mended.mttr_ms),
    ):
        if mean_ms is not None:
            yield GaugeMetricFamily(f"data_manager_holes_{name}_seconds", text, mean_ms / 1_000)


def _grades(every: Sequence[Health]) -> Metric:
    total = overall(every)
    family = GaugeMetricFamily("data_manager_health_series", "Series that stand so.", labels=["status"])
    for status, count in (
        ("healthy", total.healthy), ("degraded", total.degraded), ("unhealthy", total.unhealthy),
        ("unknown", total.unknown),
    ):  # fmt: skip
        family.add_metric([status], count)
    return family
