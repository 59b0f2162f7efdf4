"""Figures of a running service beside those of ingest: the lease, the circuit breakers, how full the store is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Protocol

from msgspec import structs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from data_manager.adapters.resilience import Breaker
from data_manager.service.mending import Mending, SourceFacts
from data_manager.services.audit import Auditor
from data_manager.services.auditing.counting import CYCLE_S
from data_manager.services.databases import Databases
from data_manager.services.ingesting.contradictions import Contradictions
from data_manager.services.ingesting.shedding import ORDER
from data_manager.services.lease import LeaseStatus
from data_manager.services.periodic import LoopLag


def of_breakers(breakers: Iterable[Breaker]) -> Iterator[Metric]:
    """0 while calls go through, 0.5 while one is on its way to find out, 1 while they fail."""
    states = {"closed": 0.0, "half-open": 0.5, "open": 1.0}
    opened = GaugeMetricFamily(
        "data_manager_circuit_breaker_open", "1 while calls fail, 0.5 while one is tried.", labels=["breaker"]
    )
    failures = CounterMetricFamily("data_manager_circuit_breaker_failures", "Calls that failed.", labels=["breaker"])
    for breaker in breakers:
        opened.add_metric([breaker.name], states[breaker.state])
        failures.add_metric([breaker.name], breaker.failures)
    yield opened
    yield failures


def of_loop(lag: LoopLag) -> Iterator[Metric]:
    """How late turns of the event loop were at worst."""
    text = "Worst delay of a turn of the event loop within the last minute."
    yield GaugeMetricFamily("data_manager_event_loop_lag_seconds", text, lag.worst_s)


def of_lease(lease: Callable[[], LeaseStatus]) -> Iterator[Metric]:
    """Whether we lead, under which epoch, and since when nobody does."""
    now = lease()
    yield GaugeMetricFamily("data_manager_audit_leader_status", "1 while this process leads.", int(now.leading))
    yield GaugeMetricFamily("data_manager_lease_epoch", "Epoch of the lease, as told last.", now.epoch)
    yield GaugeMetricFamily(
        "data_manager_lease_leaderless_seconds",
        "Since when nobody leads; 0 while somebody does.",
        now.leaderless_s or 0,
    )
    yield CounterMetricFamily("data_manager_lease_taken", "So often this process became leader.", now.taken)
    yield CounterMetricFamily("data_manager_lease_lost", "So often it lost the lease before giving it back.", now.lost)


def of_auditor(auditor: Auditor) -> Iterator[Metric]:
    """What audits came to. The predecessor's names, and how many could not be done."""
    figures = auditor.figures
    cycle = HistogramMetricFamily("data_manager_audit_cycle_seconds", "How long an audit of everything took.")
    counts = zip([*map(str, CYCLE_S), "+Inf"], accumulate(figures.cycles), strict=True)
    cycle.add_metric([], list(counts), figures.cycles_s)
    yield cycle
    gaps = CounterMetricFamily(
        "data_manager_audit_gaps_detected", "Holes found that nobody knew.", labels=["symbol", "timeframe"]
    )
    for (symbol, interval), count in figures.gaps.items():
        gaps.add_metric([symbol, interval], count)
    yield gaps
    yield CounterMetricFamily(
        "data_manager_audit_duplicates_detected", "Places where a key stands twice.", figures.duplicates
    )
    crossed = CounterMetricFamily(
        "data_manager_audit_cross_checked", "Candles judged by other rows of the same facts.", labels=["outcome"]
    )
    for outcome, count in structs.asdict(figures.crossed).items():
        crossed.add_metric([outcome], count)
    yield crossed
    failures = CounterMetricFamily(
        "data_manager_audit_failures", "Audits that could not be done, by error.", labels=["error"]
    )
    for error, count in auditor.failures.items():
        failures.add_metric([error], count)
    yield failures


class Sheds(Protocol):
    """Who stores rows, and what it lets go."""

    @property
    def shed(self) -> frozenset[str]:
        """Names of datasets."""
        ...


def of_shedding(ingesting: Sheds) -> Iterator[Metric]:
    """1 for each dataset that is let go for want of room."""
    shed = GaugeMetricFamily("data_manager_shed", "1 while a dataset is let go for want of room.", labels=["dataset"])
    for name in ORDER:
        shed.add_metric([name], int(name in ingesting.shed))
    yield shed


def of_contradictions(found: Contradictions) -> Iterator[Metric]:
    """Rows that came again and said something else, and what there was no room to compare."""
    text = "Rows that came again and said something else."
    yield CounterMetricFamily("data_manager_rows_contradicted", text, found.found)
    text = "Events that came again and were not compared: too many at once."
    yield CounterMetricFamily("data_manager_rows_uncompared", text, found.unchecked)


def of_databases(databases: Databases) -> Iterator[Metric]:
    """Sizes, as far as they are known. The predecessor's names are kept for MongoDB."""
    sizes = databases.sizes
    if sizes is not None:
        taken = GaugeMetricFamily("data_manager_store_bytes", "What the rows take.", labels=["kind"])
        for kind, size in (("data", sizes.data_bytes), ("storage", sizes.storage_bytes), ("index", sizes.index_bytes)):
            if size is not None:
                taken.add_metric([kind], size)
        yield taken
        if databases.kinds["rows"] == "mongodb" and sizes.data_bytes is not None:
            data = GaugeMetricFamily(
                "data_manager_mongo_data_size_bytes", "Rows before compression.", labels=["database"]
            )
            data.add_metric([databases.name], sizes.data_bytes)
            yield data
    errors = CounterMetricFamily(
        "data_manager_mongo_data_size_scrape_errors", "Times the size could not be asked for.", databases.scrape_errors
    )
    yield errors
    if databases.bytes_max:
        yield GaugeMetricFamily("data_manager_store_bytes_max", "What the rows may take.", databases.bytes_max)
    days = databases.days_to_full()
    if days is not None:
        yield GaugeMetricFamily("data_manager_store_days_to_full", "At the growth of the last week.", days)


def of_sources(facts: Callable[[], Mapping[str, SourceFacts]]) -> Iterator[Metric]:
    """What was asked of the venue's past, and how much of our share of its limits is used."""
    opened = GaugeMetricFamily("data_manager_source_open", "1 while requests fail.", labels=["source"])
    failures = CounterMetricFamily("data_manager_source_failures", "Requests that failed.", labels=["source"])
    asked = CounterMetricFamily("data_manager_source_requests", "Requests that went out.", labels=["source"])
    used = GaugeMetricFamily("data_manager_source_weight_used", "Of this minute, by the address.", labels=["source"])
    ceiling = GaugeMetricFamily("data_manager_source_weight_ceiling", "What we may use of it.", labels=["source"])
    waited = CounterMetricFamily("data_manager_source_waited_seconds", "Spent waiting for budget.", labels=["source"])
    halts = CounterMetricFamily("data_manager_source_halts", "Refusals: 429 and 418.", labels=["source"])
    halted = GaugeMetricFamily("data_manager_source_halted_seconds", "Nothing is asked for so long.", labels=["source"])
    for name, one in facts().items():
        opened.add_metric([name], int(one["state"] != "closed"))
        failures.add_metric([name], one["failures"])
        if "requests" in one:
            for family, word in (
                (asked, "requests"), (used, "weight_used"), (ceiling, "weight_ceiling"), (waited, "waited_s"),
                (halts, "halts"), (halted, "halted_s"),
            ):  # fmt: skip
                family.add_metric([name], one[word])
    yield from (opened, failures, asked, used, ceiling, waited, halts, halted)


def of_mending(mending: Mending) -> Iterator[Metric]:
    """Jobs by state, what became of the rows they fetched, and what auto-heal did."""
    if mending.counts is not None:
        jobs = GaugeMetricFamily("data_manager_backfill_jobs", "Backfill jobs there are.", labels=["status"])
        for state, count in mending.counts.items():
            jobs.add_metric([state.value], count)
        yield jobs
    ended = CounterMetricFamily("data_manager_backfill_jobs_ended", "Jobs that ended here.", labels=["status"])
    for word, count in mending.backfiller.ended.items():
        ended.add_metric([word], count)
    yield ended
    rows = CounterMetricFamily("data_manager_backfill_rows", "Rows that jobs fetched here.", labels=["outcome"])
    for word, count in mending.backfiller.rows.items():
        rows.add_metric([word], count)
    yield rows
    done = mending.healing.figures
    text = "Jobs made without being asked for."
    yield CounterMetricFamily("data_manager_auto_backfill_triggered", text, done["jobs"] + done["jobs_of_losses"])
    text = "Jobs made for holes that audits found."
    yield CounterMetricFamily("data_manager_audit_backfills_triggered", text, done["jobs"])
    holes = CounterMetricFamily("data_manager_holes_settled", "Holes by what a heal came to.", labels=["state"])
    for word in ("healed", "open", "absent_at_source", "unrecoverable"):
        holes.add_metric([word], done[word])
    yield holes
