"""The one door to a market's REST: a request is paid for, its answer read, and it is tried again where that helps."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
import structlog
from msgspec import Struct

from data_manager.adapters.binance import meaning
from data_manager.adapters.binance.http import Http
from data_manager.adapters.binance.venues import Venue
from data_manager.adapters.binance.weights import PATIENCE_MS, Budget, VenueClock
from data_manager.adapters.resilience import Breaker, patiently
from data_manager.domain.errors import BadSetting, Throttled, Unavailable
from data_manager.domain.events import Ms
from data_manager.domain.finding import Evidence

T = TypeVar("T")
_log = structlog.get_logger(__name__)

_ATTEMPTS: Final = 6
_PATIENCE_S: Final = 30.0  # a failure that asks for a longer pause rises
_TIME_EVERY_S: Final = 600.0


class Request(Struct, Generic[T], frozen=True):
    """GET name?params: what it costs, out of which budget, and how its answer reads."""

    name: str
    params: dict[str, str | int]
    weight: int
    decoder: msgspec.json.Decoder[T]
    is_funding: bool = False
    with_key: bool = False


class Reply(Struct, Generic[T], frozen=True):
    """A good answer, read. request: path and query. answered_ms: by our clock."""

    request: str
    sha256: str
    answered_ms: int
    value: T

    def evidence(self, rows: int, refused: int = 0) -> Evidence:
        """As Fetched.evidence has it."""
        return {
            "request": self.request, "status": 200, "sha256": self.sha256, "answered_ms": self.answered_ms,
            "rows": rows, "refused": refused,
        }  # fmt: skip


class Gate:
    """Asks one market. Clock and budgets are shared with whoever else asks the venue from this process."""

    def __init__(
        self,
        http: Http,
        clock: VenueClock,
        venue: Venue,
        address: str,
        weight: Budget,
        funding: Budget,
        api_key: str | None = None,
    ) -> None:
        self.venue = venue
        self.clock = clock
        self.weight = weight
        self.funding = funding
        self.breaker = Breaker(f"binance {venue.market} rest")
        self.has_key = api_key is not None
        self._http = http
        self._address = address.rstrip("/")
        self._timing = asyncio.Lock()
        self._key = {} if api_key is None else {"x-mbx-apikey": api_key}

    async def ask(self, request: Request[T]) -> Reply[T]:
        """The answer. Raises Unavailable, Throttled, NotFound, BadQuery, BadSetting or Undecodable."""
        await self._keep_time()
        return await self._patiently(request)

    async def _keep_time(self) -> None:
        """Read the venue's clock now and then: its minutes are those that count."""
        async with self._timing:
            if self.clock.due(_TIME_EVERY_S):
                asked_ms = self.clock.clock.now_ms()
                try:
                    reply = await self._patiently(Request("time", {}, 1, _TIME))
                except BadSetting as error:  # whether it is the wrong address shows what is asked for next
                    _log.warning("the venue's clock is not known", market=self.venue.market, reason=str(error))
                    self.clock.missed()
                else:
                    self.clock.read(reply.value.server_ms, asked_ms)

    async def _patiently(self, request: Request[T]) -> Reply[T]:
        return await self.breaker.call(lambda: self._once(request), attempts=_ATTEMPTS, wait_for=_wait_for)

    async def _once(self, request: Request[T]) -> Reply[T]:
        path = self.venue.path + request.name
        shown = f"{path}?{urlencode(request.params)}" if request.params else path
        budget = self.funding if request.is_funding else self.weight
        spent = await budget.spend(request.weight)
        used = None
        try:
            answer = await self._http.get(self._address + path, request.params, self._key if request.with_key else {})
            used = meaning.used_weight(answer)
        finally:
            budget.answered(spent, used)
        until_ms = meaning.halted_until_ms(answer, self.clock.now_ms(), budget.end_ms())
        if until_ms is not None:
            why = f"{'banned by' if answer.status == 418 else 'too many requests at'} the venue ({answer.status})"
            budget.halt.set(until_ms, why)
            raise Throttled(f"{shown}: {why}", retry_after_s=max(0.0, (until_ms - self.clock.now_ms()) / 1_000))
        error = meaning.error_of(answer, shown, self.venue.setting, self._address)
        if error is not None:
            raise error
        value = meaning.read(answer.body, request.decoder, shown)
        return Reply(shown, hashlib.sha256(answer.body).hexdigest(), self.clock.clock.now_ms(), value)


def _wait_for(error: Exception) -> bool | timedelta:
    """The budget waits for what a refusal named, within its patience; other long pauses are for the caller to make."""
    if isinstance(error, Throttled):
        return error.retry_after_s <= PATIENCE_MS / 1_000
    if isinstance(error, Unavailable) and error.retry_after_s > _PATIENCE_S:
        return False
    return patiently(error)


class _Time(Struct, rename={"server_ms": "serverTime"}):
    server_ms: Ms


_TIME: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Time)
