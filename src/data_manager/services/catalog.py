"""Catalogue: what the store holds, series by series, as the metadata keeps it."""

from __future__ import annotations

from data_manager.ports import Clock, MetaStore, SeriesStatistics, SeriesStore


async def keep_statistics(store: SeriesStore, meta: MetaStore, clock: Clock, held: dict[str, int]) -> None:
    """Enter rows, first and last time of every series whose row count changed. held: row counts entered before."""
    changed = []
    for series in await store.series():
        extent = await store.extent(series)
        if extent is not None and held.get(series.id) != extent.rows:
            changed.append(
                SeriesStatistics(
                    series=series,
                    rows=extent.rows,
                    first_ms=extent.first_ms,
                    last_ms=extent.last_ms,
                    updated_ms=clock.now_ms(),
                )
            )
    if changed:
        await meta.keep_statistics(changed)
        held.update((one.series.id, one.rows) for one in changed)
