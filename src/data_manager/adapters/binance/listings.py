"""What a market lists: since when, until when, and how often its funding is settled. Asked once an hour at most."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from data_manager.adapters.binance.gate import Gate, Request
from data_manager.domain.time import HOUR_MS

_KEPT_MS: Final = HOUR_MS
_NEVER_MS: Final = 4_133_404_800_000  # delivery of what is never delivered


class Listing(Struct, frozen=True, kw_only=True):
    """One contract, as the venue lists it now.

    onboard_ms is no safe time of a first row: early contracts carry a placeholder. delivery_ms is None while no end is
    announced. funding_interval_ms is the one in force now, None where none is told, which does not mean 8 hours.
    """

    symbol: str
    status: str  # an open set: TRADING, PENDING_TRADING, SETTLING, …
    contract_type: str
    onboard_ms: int | None
    delivery_ms: int | None
    funding_interval_ms: int | None = None


class Listings:
    """The listings of one market, kept for an hour. Learns the venue's weight limit on the way."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._asking = asyncio.Lock()
        self._asked_ms: int | None = None
        self._found: dict[str, Listing] = {}

    async def of(self, symbol: str) -> Listing | None:
        """The listing of a symbol; None where the venue lists it no more, or never did. Raises what Gate.ask does."""
        async with self._asking:
            now_ms = self._gate.clock.clock.now_ms()
            if self._asked_ms is None or now_ms - self._asked_ms >= _KEPT_MS:
                self._found = await self._ask()
                self._asked_ms = now_ms
        return self._found.get(symbol)

    async def _ask(self) -> dict[str, Listing]:
        info = (await self._gate.ask(Request("exchangeInfo", {}, self._weight, _INFO))).value
        for limit in info.rate_limits:
            if (limit.kind, limit.interval, limit.count) == ("REQUEST_WEIGHT", "MINUTE", 1) and limit.limit > 0:
                self._gate.weight.limit = limit.limit
        intervals: dict[str, int] = {}
        if self._gate.venue.has_funding:
            reply = await self._gate.ask(Request("fundingInfo", {}, 1, _FUNDING, is_funding=True))
            intervals = {one.symbol: one.hours * HOUR_MS for one in reply.value}
        return {one.symbol: _listing(one, intervals) for one in info.symbols}

    @property
    def _weight(self) -> int:
        return 1 if self._gate.venue.has_funding else 20


class _Symbol(Struct, rename="camel"):
    symbol: str
    status: str = ""
    contract_status: str = ""  # COIN-M's word
    contract_type: str = ""
    onboard_date: int | None = None
    delivery_date: int | None = None


class _Limit(Struct, rename={"kind": "rateLimitType", "count": "intervalNum"}):
    kind: str = ""
    interval: str = ""
    count: int = 0
    limit: int = 0


class _Info(Struct, rename="camel"):
    symbols: list[_Symbol]
    rate_limits: list[_Limit] = field(default_factory=list)


class _Funding(Struct, rename={"hours": "fundingIntervalHours"}):
    symbol: str
    hours: int = 8


_INFO: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Info)
_FUNDING: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[_Funding])


def _listing(one: _Symbol, intervals: dict[str, int]) -> Listing:
    return Listing(
        symbol=one.symbol, status=one.status or one.contract_status, contract_type=one.contract_type,
        onboard_ms=one.onboard_date, delivery_ms=None if one.delivery_date == _NEVER_MS else one.delivery_date,
        funding_interval_ms=intervals.get(one.symbol),
    )  # fmt: skip
