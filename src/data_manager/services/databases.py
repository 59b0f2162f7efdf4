"""What is known of the databases behind us: whether they answer, how quickly, how full they are, and when they will be.

A figure that is not known is None: a server that does not answer has no size.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from data_manager.domain.errors import DataManagerError, Unavailable
from data_manager.domain.time import DAY_MS, HOUR_MS
from data_manager.ports import Clock, MetaStore, SeriesStore, StoreSizes

_PATIENCE_S: Final = 2.0
_SAMPLES_MAX: Final = 2_000
_WATCHED_MS: Final = 7 * DAY_MS
_BY: Final = {True: "index", False: "engine", None: None}
_NEEDED_MS: Final = HOUR_MS  # shorter than this nothing is projected: a burst is no trend


class Databases:
    """The store of the rows and the store of the metadata. look() every now and then; facts() asks both anew."""

    def __init__(
        self, store: SeriesStore, meta: MetaStore, meta_kind: str, clock: Clock, *, name: str, bytes_max: int
    ) -> None:
        """name: of the rows' database. bytes_max: what the rows may take; 0 for no bound."""
        self.name = name
        self.sizes: StoreSizes | None = None
        self.scrape_errors = 0
        self.bytes_max = bytes_max
        self.kinds = {"rows": store.kind, "metadata": meta_kind}
        self._store = store
        self._meta = meta
        self._clock = clock
        self._growth = Growth()

    async def look(self) -> None:
        """Ask how full the rows' store is. Raises Unavailable; then it is not known."""
        self.sizes = None
        try:
            self.sizes = await self._store.sizes()
        except DataManagerError:
            self.scrape_errors += 1
            raise
        self._growth.saw(self._clock.now_ms(), self.sizes.used_bytes)

    def days_to_full(self) -> float | None:
        """At the growth of the last week; None without a bound, and while nothing can be said."""
        return self._growth.days_to_full(self.bytes_max) if self.bytes_max else None

    async def facts(self, *, rows_refused: str | None = None, metadata_refused: str | None = None) -> dict[str, Any]:
        """The body of GET /health/databases, but for its time.

        …_refused: why writes fail, as those met it who write there: a full disk answers every question.
        """
        rows, metadata, _ = await asyncio.gather(
            self._asked(self._store.healthy, rows_refused),
            self._asked(self._meta.healthy, metadata_refused),
            self._look_once(),
        )
        sizes = self.sizes
        rows |= {
            "kind": self.kinds["rows"],
            "rows": sizes and sizes.rows,
            "data_bytes": sizes and sizes.data_bytes,
            "storage_bytes": sizes and sizes.storage_bytes,
            "index_bytes": sizes and sizes.index_bytes,
            "used_bytes": sizes and sizes.used_bytes,
            "bytes_max": self.bytes_max or None,
            "days_to_full": self.days_to_full(),
            "retention": _BY[self._store.deletes_by_itself],
        }
        metadata |= {"kind": self.kinds["metadata"]}
        well = rows["status"] == metadata["status"] == "healthy"
        return {"status": "healthy" if well else "unhealthy", "databases": {"rows": rows, "metadata": metadata}}

    async def _look_once(self) -> None:
        if self.sizes is None:
            with suppress(DataManagerError, TimeoutError):  # the answer says that it does not answer
                async with asyncio.timeout(_PATIENCE_S):
                    await self.look()

    async def _asked(self, healthy: Callable[[], Awaitable[bool]], refused: str | None) -> dict[str, Any]:
        started_s = self._clock.monotonic_s()
        silent = await reason_against(healthy)
        took_ms = round((self._clock.monotonic_s() - started_s) * 1000, 3)
        reason = silent or refused
        status = "healthy" if reason is None else "unhealthy"
        return {"status": status, "reason": reason, "latency_ms": took_ms if silent is None else None}


async def reason_against(healthy: Callable[[], Awaitable[bool]]) -> str | None:
    """Why a database is not well, in words; None when it answers in time."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return None if await healthy() else "does not answer"
    except Unavailable as error:
        return str(error)
    except TimeoutError:
        return f"does not answer within {_PATIENCE_S:g} s"


class Growth:
    """Sizes over time, and what they project."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES_MAX)

    def saw(self, at_ms: int, used_bytes: int) -> None:
        """Remember a figure. Those older than a week, or from after a clock that went back, are forgotten."""
        while self._samples and not at_ms - _WATCHED_MS <= self._samples[0][0] < at_ms:
            self._samples.popleft()
        self._samples.append((at_ms, used_bytes))

    def days_to_full(self, budget_bytes: int) -> float | None:
        """Days until used_bytes reaches the budget at the growth seen, 0 when it has; None while nothing can be said.

        Nothing can be said of less than an hour, and not when it does not grow.
        """
        if not self._samples:
            return None
        (first_ms, first), (last_ms, last) = self._samples[0], self._samples[-1]
        if last >= budget_bytes:
            return 0.0
        if last_ms - first_ms < _NEEDED_MS or last <= first:
            return None
        return (budget_bytes - last) / (last - first) * (last_ms - first_ms) / DAY_MS
