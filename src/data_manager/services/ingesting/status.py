"""What ingest says of itself: the conservation law in figures, how far behind it is, and each series' last event."""

from __future__ import annotations

from collections import deque
from typing import Any

from data_manager.ports import BusState, Clock
from data_manager.services.watch import Watch
from data_manager.telemetry import Tally

_RATE_OVER_S = 10.0


class IngestStatus:
    """Figures of the running ingest. look() it every now and then: the rate is taken over the last ten seconds."""

    def __init__(self, tally: Tally, watch: Watch, clock: Clock) -> None:
        self._tally = tally
        self._watch = watch
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque([(clock.monotonic_s(), 0)])

    def look(self) -> None:
        """Note how many events there are by now."""
        now_s = self._clock.monotonic_s()
        self._seen.append((now_s, self._tally.total_received()))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= _RATE_OVER_S:
            self._seen.popleft()

    def facts(self, bus: BusState | None) -> dict[str, Any]:
        """The body of GET /health/ingest. received = new + changed + duplicate + rejected + dropped + in_flight."""
        tally = self._tally
        oldest_ms = tally.oldest_unflushed_ms
        return {
            "received": tally.total_received(),
            "new": tally.new.total(),
            "changed": tally.changed.total(),
            "duplicate": tally.duplicate.total(),
            "rejected": tally.rejected.total(),
            "dropped": tally.dropped,
            "in_flight": tally.in_flight,
            "ignored": tally.ignored.total(),
            "rate_per_s": self._rate_per_s(),
            "lag_ms": tally.lag_ms,
            "oldest_unflushed_ms": None if oldest_ms is None else max(0, self._clock.now_ms() - oldest_ms),
            "pending": None if bus is None else bus.pending,
            "series": self._watch.series_facts(),
        }

    def _rate_per_s(self) -> float:
        since_s, before = self._seen[0]
        seconds = self._clock.monotonic_s() - since_s
        return round((self._tally.total_received() - before) / seconds, 1) if seconds > 0 else 0.0
