"""Opens the sources of the past: REST of all markets behind the budgets they share, and the archives."""

from pathlib import Path

from msgspec import Struct

from data_manager.adapters.binance.archive import ArchiveSource
from data_manager.adapters.binance.gate import Gate
from data_manager.adapters.binance.http import TIMEOUT_S, Http
from data_manager.adapters.binance.rest import RestSource
from data_manager.adapters.binance.venues import FUNDING_REQUESTS, FUNDING_WINDOW_MS, VENUES
from data_manager.adapters.binance.weights import Budget, VenueClock
from data_manager.ports import Clock
from data_manager.ports.source import Digests


class Access(Struct, frozen=True, kw_only=True):
    """Where the venue is, and how much of it is ours to use."""

    um: str = "https://fapi.binance.com"
    cm: str = "https://dapi.binance.com"
    spot: str = "https://api.binance.com"
    archive: str = "https://data.binance.vision"
    api_key: str | None = None
    ceiling_percent: float = 60.0  # of the venue's limits
    weight_max: int | None = None  # per minute, if that is less
    timeout_s: float = TIMEOUT_S


def open_rest(access: Access, clock: Clock) -> RestSource:
    """The REST source. Markets of one pool share their budget; every market has its own address.

    Open it once in a process: the budget is that of our address, and one that is counted twice is spent twice.
    """
    http = Http(timeout_s=access.timeout_s)
    pools: dict[str, tuple[VenueClock, Budget, Budget]] = {}
    gates = {}
    for market, venue in VENUES.items():
        if venue.pool not in pools:
            pools[venue.pool] = _budgets(access, VenueClock(clock), venue.weight_per_minute)
        address = getattr(access, market)
        gates[market] = Gate(http, pools[venue.pool][0], venue, address, *pools[venue.pool][1:], access.api_key)
    return RestSource(gates, http)


def open_archive(access: Access, clock: Clock, digests: Digests, downloads: Path) -> ArchiveSource:
    """The archive source. downloads: a folder for files on their way, made when needed and emptied."""
    return ArchiveSource(Http(timeout_s=access.timeout_s), access.archive, clock, digests, downloads)


def _budgets(access: Access, clock: VenueClock, limit: int) -> tuple[VenueClock, Budget, Budget]:
    weight = Budget(clock, limit=limit, share_percent=access.ceiling_percent, at_most=access.weight_max)
    funding = Budget(
        clock, limit=FUNDING_REQUESTS, share_percent=access.ceiling_percent, window_ms=FUNDING_WINDOW_MS,
        halt=weight.halt,
    )  # fmt: skip
    return clock, weight, funding
