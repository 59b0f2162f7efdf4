"""The REST source: closed candles, trades, mark prices and funding as the venue answers for them now.

rest_offers.py says what can be asked for, rest_candles.py, rest_numbered.py and rest_funding.py fetch it by pages.
Each market is asked at its own address and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from data_manager.adapters.binance import rest_numbered, rest_offers
from data_manager.adapters.binance.gate import Gate
from data_manager.adapters.binance.http import Http
from data_manager.adapters.binance.listings import Listing, Listings
from data_manager.adapters.binance.rest_candles import candles, mark_prices
from data_manager.adapters.binance.rest_funding import funding_rates
from data_manager.domain.condition.partition import Life
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.span import Span
from data_manager.ports.source import Fetched, Offer, Wanted

Facts = dict[str, int | float | str | None]


class RestSource:
    """Source by REST, of every market there is a gate for."""

    name = "rest"

    def __init__(self, gates: Mapping[str, Gate], http: Http) -> None:
        """gates: by market. http is closed with the source."""
        self._gates = gates
        self._http = http
        self._listings = {market: Listings(gate) for market, gate in gates.items()}

    def offers(self, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
        """See Source.offers."""
        gate = self._gates.get(wanted.series.market)
        call = next((name for name in DATASETS[wanted.series.dataset].refill if name in _CALLS), None)
        return [] if gate is None or call is None else _CALLS[call].offered(gate, wanted, now_ms)

    def fetch(self, wanted: Wanted, offer: Offer, origin: str) -> AsyncIterator[Fetched]:
        """See Source.fetch."""
        if offer.call not in _CALLS:
            raise BadQuery("call", offer.call, f"must be one of {' '.join(_CALLS)}")
        gate = self._gates[wanted.series.market]
        return _CALLS[offer.call].fetch(gate, wanted, offer.span, f"{origin} {offer.call}".lstrip())

    async def listing(self, series: Series) -> Listing | None:
        """What the venue lists of the series' symbol; None where it does not. Raises Unavailable and its like."""
        listings = self._listings.get(series.market)
        return await listings.of(series.symbol) if listings else None

    async def knows(self, series: Series) -> bool | None:
        """See Source.knows."""
        return None if series.market not in self._listings else await self.listing(series) is not None

    async def life_of(self, series: Series) -> SymbolLife | None:
        """When rows of the symbol can exist, as the venue lists it; None where it tells neither end of that."""
        listing = await self.listing(series)
        if listing is None or (listing.onboard_ms is None and listing.delivery_ms is None):
            return None
        life = Life(listed_ms=listing.onboard_ms, delisted_ms=listing.delivery_ms)
        now_ms = self._gates[series.market].clock.clock.now_ms()
        return SymbolLife(market=series.market, symbol=series.symbol, life=life, source="exchangeInfo", told_ms=now_ms)

    def facts(self) -> dict[str, Facts]:
        """By market: what was asked, what that used of the budget, and what holds us up."""
        return {market: _facts(gate) for market, gate in self._gates.items()}

    async def close(self) -> None:
        """See Source.close."""
        await self._http.close()


class _Call(NamedTuple):
    offered: Callable[[Gate, Wanted, int], Sequence[Offer]]
    fetch: Callable[[Gate, Wanted, Span, str], AsyncIterator[Fetched]]


def _aggregates(gate: Gate, wanted: Wanted, span: Span, origin: str) -> AsyncIterator[Fetched]:
    return rest_numbered.numbered(gate, rest_numbered.aggregates(gate.venue), wanted, span, origin)


def _trades(gate: Gate, wanted: Wanted, span: Span, origin: str) -> AsyncIterator[Fetched]:
    return rest_numbered.numbered(gate, rest_numbered.trades(gate.venue), wanted, span, origin)


def _candles(gate: Gate, wanted: Wanted, span: Span, origin: str) -> AsyncIterator[Fetched]:
    return candles(gate, wanted.series, span, origin)


def _mark_prices(gate: Gate, wanted: Wanted, span: Span, origin: str) -> AsyncIterator[Fetched]:
    return mark_prices(gate, wanted.series, span, origin)


def _funding(gate: Gate, wanted: Wanted, span: Span, origin: str) -> AsyncIterator[Fetched]:
    return funding_rates(gate, wanted.series, span, origin)


_CALLS: Final[Mapping[str, _Call]] = {
    "rest:klines": _Call(rest_offers.offered_candles, _candles),
    "rest:markPriceKlines": _Call(rest_offers.offered_mark_prices, _mark_prices),
    "rest:aggTrades": _Call(rest_offers.offered_aggregates, _aggregates),
    "rest:historicalTrades": _Call(rest_offers.offered_trades, _trades),
    "rest:fundingRate": _Call(rest_offers.offered_funding, _funding),
}


def _facts(gate: Gate) -> Facts:
    halt = gate.weight.halt
    return {
        **gate.breaker.facts(), "requests": gate.weight.requests, "weight_used": gate.weight.used,
        "weight_ceiling": gate.weight.ceiling, "waited_s": gate.weight.waited_s, "halts": halt.times,
        "halted_s": max(0, halt.until_ms - gate.clock.now_ms()) / 1_000, "clock_ahead_ms": gate.clock.ahead_ms,
    }  # fmt: skip
