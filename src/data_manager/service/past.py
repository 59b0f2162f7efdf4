"""Whom the past can be asked of, by the settings: the venue's REST and its archives."""

from __future__ import annotations

from data_manager.adapters.binance.sources import Access, open_archive, open_rest
from data_manager.ports import Clock
from data_manager.ports.source import Digests
from data_manager.service.mending import Past, SourceFacts
from data_manager.settings import Settings


def open_past(settings: Settings, digests: Digests, clock: Clock) -> Past:
    """REST and archives; close both. Once in a process: their budget is that of our address."""
    access = Access(
        um=settings.binance_fapi_base_url,
        cm=settings.binance_dapi_base_url,
        spot=settings.binance_api_base_url,
        archive=settings.binance_archive_base_url,
        api_key=settings.binance_api_key,
        ceiling_percent=settings.binance_weight_ceiling_percent,
        weight_max=settings.binance_weight_max,
    )
    rest = open_rest(access, clock)
    archive = open_archive(access, clock, digests, settings.data_dir / "downloads")

    def facts() -> dict[str, SourceFacts]:
        return {**{f"rest.{market}": one for market, one in rest.facts().items()}, **archive.facts()}

    return Past((rest, archive), rest.life_of, facts)
