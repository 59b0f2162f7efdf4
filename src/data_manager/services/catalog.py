"""Catalogue: what the store holds, series by series, as the metadata keeps it."""

from __future__ import annotations

import structlog

from data_manager.domain.dataset import Series
from data_manager.domain.errors import Corrupt
from data_manager.ports import Clock, Extent, MetaStore, SeriesStatistics, SeriesStore

_log = structlog.get_logger(__name__)


async def keep_statistics(store: SeriesStore, meta: MetaStore, clock: Clock, held: dict[str, int]) -> None:
    """Enter rows, first and last time of every series whose row count changed. held: row counts entered before.

    What is entered is never older than what is held, even when our clock was set back: it would be taken for stale.
    """
    changed: list[tuple[Series, Extent]] = []
    for series in await store.series():
        extent = await _extent(store, series)
        if extent is not None and held.get(series.id) != extent.rows:
            changed.append((series, extent))
    if not changed:
        return
    now_ms, known_ms = clock.now_ms(), {one.series: one.updated_ms for one in await meta.statistics()}
    await meta.keep_statistics(
        [
            SeriesStatistics(
                series=series,
                rows=extent.rows,
                first_ms=extent.first_ms,
                last_ms=extent.last_ms,
                updated_ms=max(now_ms, known_ms.get(series, now_ms)),
                storage=store.kind,
            )
            for series, extent in changed
        ]
    )
    held.update((series.id, extent.rows) for series, extent in changed)


async def _extent(store: SeriesStore, series: Series) -> Extent | None:
    """What is held of a series; None also where damage leaves that unknown."""
    try:
        return await store.extent(series)
    except Corrupt as error:
        _log.error("a series is damaged: its statistics stay as they were", series=series.id, reason=str(error))
        return None
