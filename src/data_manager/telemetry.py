"""Every figure we count and every word we log, in one place.

A Tally is plain integers, cheap enough to touch per event, and the source of truth: Prometheus reads it when scraped,
/health/ingest shows it, tests assert its law. Telemetry never decides anything and can never break the data path.
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from data_manager.domain.errors import Rejected, Undecodable
from data_manager.ports import BusState, Receipt
from data_manager.ports.bus import ErrorType

_REFUSED_OF_MAX = 256  # of more series at once it is the stream that is wrong, and counted too
_WRITES = ("forget_", "keep_", "prune_", "submit_")  # what the metadata's operations that write begin with
_CALL_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
_TOOK_MS = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000])


class Took:
    """How long events took, as a histogram: counts up to each of the bounds, the last beyond all of them."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(_TOOK_MS) + 1, np.int64)
        self.sum_ms = 0

    def add(self, took_ms: NDArray[np.int64]) -> None:
        """So many more. A clock that was set back makes none of them negative."""
        whole = np.maximum(took_ms, 0)
        self.counts += np.bincount(np.searchsorted(_TOOK_MS, whole), minlength=len(self.counts))
        self.sum_ms += int(whole.sum())


@dataclass(slots=True)
class Tally:
    """What became of every event since the start.

    The law: received = new + changed + duplicate + rejected + dropped + in flight. An event is one row of a message;
    bytes that cannot be decoded count as one. Ignored messages (acks, foreign JSON) stand apart.
    """

    received: Counter[str] = field(default_factory=Counter)  # by event type
    new: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    duplicate: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # by event type and reason, once that is known
    refused_of: Counter[tuple[str, str]] = field(default_factory=Counter)  # by series and reason; the watch takes them
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)  # the same, once their dead letters are kept
    ignored: Counter[str] = field(default_factory=Counter)  # by reason
    dropped: int = 0
    in_flight: int = 0
    messages: int = 0
    flushes: int = 0
    store_seconds: float = 0.0
    lag_ms: int | None = None  # our clock minus the venue's, for the event stored last
    oldest_unflushed_ms: int | None = None  # when the oldest event that waits was received
    took: defaultdict[str, Took] = field(default_factory=lambda: defaultdict(Took))  # received to durable, by type
    dead_evicted: int = 0  # dead letters that had to make room for newer ones
    findings_open: Counter[str] = field(default_factory=Counter)  # raised by the watch over the streams, by kind

    def refuse(self, event_type: str, why: Rejected) -> None:
        """Count an event in flight that is to be a dead letter, and of what series it is where that is known."""
        self.refused[event_type, why.reason] += 1
        one = (why.series, why.reason)
        if why.series is not None and (len(self.refused_of) < _REFUSED_OF_MAX or one in self.refused_of):
            self.refused_of[why.series, why.reason] += 1

    def stored(self, event_type: str, receipt: Receipt) -> None:
        """Count what an append did."""
        self.new[event_type] += receipt.new
        self.changed[event_type] += receipt.changed
        self.duplicate[event_type] += receipt.duplicate

    def missing(self) -> int:
        """Events that the law cannot account for: 0, or there is a bug."""
        return self.total_received() - (
            self.new.total() + self.changed.total() + self.duplicate.total() + self.rejected.total()
            + self.dropped + self.in_flight
        )  # fmt: skip

    def rows_in_flight(self) -> int:
        """Those in flight that wait for the store of the rows, and not for that of the dead letters."""
        return self.in_flight - (self.refused.total() - self.rejected.total())

    def total_received(self) -> int:
        """All events, dropped ones included."""
        return self.received.total() + self.dropped


class Calls:
    """How often each store was asked what, with what success, and how long it took: whoever asks calls note()."""

    def __init__(self) -> None:
        self._outcomes: Counter[tuple[str, str, str]] = Counter()  # by database, operation and status
        self._took: defaultdict[tuple[str, str], _Seconds] = defaultdict(_Seconds)
        self._unwritten: Counter[tuple[str, str, str]] = Counter()  # MySQL's, by database, operation and error

    def note(self, database: str, operation: str, seconds: float, error: Exception | None = None) -> None:
        """One call is over."""
        self._outcomes[database, operation, "success" if error is None else "error"] += 1
        self._took[database, operation].add(seconds)
        if error is not None and database == "mysql" and operation.startswith(_WRITES):
            self._unwritten[database, operation, type(error).__name__] += 1

    def collect(self) -> Iterator[Metric]:
        """All families."""
        counted = CounterMetricFamily(
            "data_manager_database_operations", "Questions to the stores.", labels=["database", "operation", "status"]
        )
        for labels, count in self._outcomes.items():
            counted.add_metric(labels, count)
        yield counted
        took = HistogramMetricFamily(
            "data_manager_database_operation_duration_seconds", "Until answered.", labels=["database", "operation"]
        )
        for asked, seconds in self._took.items():
            took.add_metric(asked, seconds.buckets(), seconds.sum)
        yield took
        unwritten = CounterMetricFamily(
            "data_manager_mysql_write_failures",
            "Writes that MySQL did not take; collection: what was to be written.",
            labels=["database", "collection", "reason"],
        )
        for labels, count in self._unwritten.items():
            unwritten.add_metric(labels, count)
        yield unwritten


class _Seconds:
    """A histogram: counts up to each of the bounds, the last beyond all of them."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(_CALL_S) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_CALL_S, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        return list(zip([*map(str, _CALL_S), "+Inf"], accumulate(self.counts), strict=True))


class TallyMetrics:
    """A Prometheus collector over a tally; the names are the predecessor's where it had one."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.calls = Calls()
        self.bus: BusState | None = None  # as last asked for; the app refreshes it
        self.more: list[Callable[[], Iterable[Metric]]] = []  # figures of other parts of the process

    def collect(self) -> Iterator[Metric]:
        """All families, at the moment of the scrape."""
        tally = self._tally
        yield _counter(
            "messages_received",
            "Events from the bus, also those let go; raw: messages.",
            "event_type",
            _received(tally),
        )
        yield _counter("messages_processed", "Events stored, new or known.", "event_type", _processed(tally))
        yield _failed(tally)
        yield _counter("messages_ignored", "Messages that are no market data.", "reason", tally.ignored)
        for outcome in ("new", "changed", "duplicate"):
            yield _counter(
                f"rows_{outcome}", f"Rows whose append was: {outcome}.", "event_type", getattr(tally, outcome)
            )
        yield _processing(tally)
        found = GaugeMetricFamily("data_manager_findings_open", "Findings that last, of the watch.", labels=["kind"])
        for kind, count in tally.findings_open.items():
            found.add_metric([kind], count)
        yield found
        yield CounterMetricFamily("data_manager_events_dropped", "Events let go for want of room.", tally.dropped)
        yield CounterMetricFamily(
            "data_manager_dead_letters_evicted", "Dead letters that made room for newer ones.", tally.dead_evicted
        )
        yield CounterMetricFamily("data_manager_flushes", "Flushes to the store.", tally.flushes)
        yield CounterMetricFamily("data_manager_append_seconds", "Time spent in appends.", tally.store_seconds)
        yield GaugeMetricFamily("data_manager_events_in_flight", "Events taken, not yet stored.", tally.in_flight)
        yield GaugeMetricFamily(
            "data_manager_conservation_missing", "Events the conservation law cannot account for.", tally.missing()
        )
        if tally.lag_ms is not None:
            yield GaugeMetricFamily(
                "data_manager_lag_seconds", "Our clock minus the venue's, event stored last.", tally.lag_ms / 1000
            )
        yield from _bus_metrics(self.bus)
        yield from self.calls.collect()
        for families in self.more:
            yield from families()


def _received(tally: Tally) -> Counter[str]:
    """Every message as raw, and every event by its type; nobody read what was dropped: its type is unknown."""
    counts = Counter(raw=tally.messages, unknown=tally.dropped)
    counts.update(tally.received)  # not +, which leaves out what is 0
    return counts


def _failed(tally: Tally) -> Metric:
    """error_type: the predecessor's words, so that what was built on them goes on; reason: ours, which say more."""
    family = CounterMetricFamily(
        "data_manager_messages_failed",
        "Events that went to the dead letters.",
        labels=["event_type", "error_type", "reason"],
    )
    for (event_type, reason), count in tally.rejected.items():
        family.add_metric([event_type, "json_decode" if reason == Undecodable.reason else "processing", reason], count)
    return family


def _processed(tally: Tally) -> Counter[str]:
    return tally.new + tally.changed + tally.duplicate


def _counter(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(f"data_manager_{name}", text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _processing(tally: Tally) -> Metric:
    family = HistogramMetricFamily(
        "data_manager_message_processing_seconds", "From received to durable.", labels=["event_type"]
    )
    bounds = [*(str(bound / 1000) for bound in _TOOK_MS.tolist()), "+Inf"]
    for event_type, took in tally.took.items():
        family.add_metric(
            [event_type],
            list(zip(bounds, np.cumsum(took.counts).tolist(), strict=True)),
            took.sum_ms / 1000,
        )
    return family


def _bus_metrics(state: BusState | None) -> Iterator[Metric]:
    connected = 0 if state is None else int(state.connected)
    yield GaugeMetricFamily("data_manager_nats_connection_status", "1 while connected to the bus.", connected)
    if state is not None:
        yield CounterMetricFamily("data_manager_nats_reconnections", "Reconnections to the bus.", state.reconnects)
        errors = CounterMetricFamily("data_manager_nats_errors", "Errors of the bus connection.", labels=["type"])
        for error_type in get_args(ErrorType):
            errors.add_metric([error_type], state.errors_by_type.get(error_type, 0))
        yield errors
        if state.pending is not None:
            yield GaugeMetricFamily(
                "data_manager_consumer_pending", "Messages the bus holds for us, not yet delivered.", state.pending
            )


def registry(metrics: TallyMetrics) -> CollectorRegistry:
    """A Prometheus registry of our figures and nothing of the process-wide default."""
    own = CollectorRegistry(auto_describe=False)
    own.register(metrics)
    return own


def configure_logging(level: str, form: Literal["json", "console"]) -> None:
    """Structured lines on stderr, ids as fields; the standard library's loggers go the same way."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for talkative in ("alembic", "httpcore2", "httpx2", "uvicorn"):  # httpx tells whole addresses, also secret ones
        logging.getLogger(talkative).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
