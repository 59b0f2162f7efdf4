"""The REST interface: GET /fapi/v1/… and /futures/data/…, their parameters, their limits, and what it answers.

    request → faults → what it costs → parameters → the market's rows → faults in the rows → JSON

A request whose parameters are refused has cost its weight. Times are inclusive at both ends.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from data_manager.domain.time import DAY_MS, HOUR_MS, INTERVALS_MS, MINUTE_MS, floor_open_ms
from data_manager.simulator import asking, bars, listing, rows, standing
from data_manager.simulator.answers import Raw, Refused, Units, decimal
from data_manager.simulator.asking import Params
from data_manager.simulator.bars import Rows
from data_manager.simulator.books import Books
from data_manager.simulator.clock import ExchangeClock
from data_manager.simulator.contracts import Contract
from data_manager.simulator.faults import Faults
from data_manager.simulator.limits import FUNDING, STATISTICS, WEIGHT, Bucket, Limits
from data_manager.simulator.market import Tape
from data_manager.simulator.quotes import Quotes
from data_manager.simulator.statistics import ANSWERS, KEPT_MS, PERIODS, opens_between
from data_manager.simulator.tape import Aggregates, joined

_AGGREGATES_KEPT_MS: Final = 48 * HOUR_MS
_TRADES_KEPT_MS: Final = 30 * DAY_MS
_LAST_MS: Final = 1 << 53


class Endpoint(NamedTuple):
    """One path: what it costs, out of which bucket, and what answers it."""

    weigh: Callable[[Params], int]
    answer: Callable[["Rest", Params], Any]
    bucket: Bucket = WEIGHT


class Rest:
    """Answers requests from a tape. No sockets here: answer() is the whole of it."""

    def __init__(
        self,
        tape: Tape,
        quotes: Quotes,
        books: Books,
        clock: ExchangeClock,
        limits: Limits,
        faults: Faults,
        *,
        only: Collection[str] = (),
    ) -> None:
        """only: the endpoints there are; all without."""
        self.tape = tape
        self.quotes = quotes
        self.books = books
        self.clock = clock
        self.limits = limits
        self.faults = faults
        self._only = only
        self._truth = False

    def answer(
        self, path: str, params: Params, headers: Mapping[str, str], address: str, *, doubled: bool = False
    ) -> Raw:
        """The answer to one GET. doubled: a parameter stood there twice. Raises nothing."""
        told: dict[str, str] = {}
        try:
            self.faults.refuse(path, address)
            endpoint = self._endpoint(path)
            told = self.limits.charge(address, endpoint.bucket, endpoint.weigh(params))
            if doubled:
                raise Refused(400, -1101, "Duplicate values for a parameter detected.")
            if path.endswith("historicalTrades") and not headers.get("x-mbx-apikey"):
                raise Refused(401, -2014, "API-key format invalid.")
            body = msgspec.json.encode(endpoint.answer(self, params))
        except Refused as no:
            if no.page is not None:
                return Raw(status=no.status, body=no.page, headers=no.headers, media="text/html")
            body = msgspec.json.encode({"code": no.code, "msg": no.message})
            return Raw(status=no.status, body=body, headers=told | no.headers)
        for _ in self.faults.matching("truncate", path):
            return Raw(body=body[: len(body) // 2], headers=told, promised=len(body))
        return Raw(body=body, headers=told)

    def truth(self, path: str, params: Params) -> Raw:
        """The same without budgets, faults and walls of time: what the market holds. For tests and demonstrations."""
        calm = Rest(self.tape, self.quotes, self.books, self.clock, self.limits, Faults(self.clock, 0))
        calm._truth = True
        try:
            return Raw(body=msgspec.json.encode(self._endpoint(path).answer(calm, params)))
        except Refused as no:
            return Raw(status=no.status, body=msgspec.json.encode({"code": no.code, "msg": no.message}))

    def _endpoint(self, path: str) -> Endpoint:
        found = re.fullmatch(r"/fapi/v[12]/(.+)|/(futures/data/.+)", path)
        name = found[1] or found[2] if found else ""
        if name not in _ENDPOINTS or (self._only and name not in self._only):
            raise Refused(404, -5000, f"Path {path}, Method GET is invalid")
        return _ENDPOINTS[name]

    # ---- parameters --------------------------------------------------------------------------------------------

    def contract(self, params: Params, name: str = "symbol") -> Contract:
        """The contract asked for: symbols are case-insensitive. Raises Refused."""
        text = params.get(name)
        if not text:
            raise asking.mandatory(name)
        symbol = text.upper() if text.isascii() else text
        contract = self.tape.contracts.get(symbol)
        if contract is None or contract.market != "um":
            raise Refused(400, -1121, "Invalid symbol.") if name == "symbol" else Refused(400, -4144, "Invalid pair.")
        return contract

    def limit(self, params: Params, default: int, most: int) -> int:
        """How many rows. Raises Refused outside 1 to most."""
        limit = asking.number(params, "limit")
        if limit is None:
            return default
        if not 1 <= limit <= (10**9 if self._truth else most):
            raise Refused(400, -1130, "Data sent for parameter 'limit' is not valid.")
        return limit

    @property
    def shown_ms(self) -> int:
        """The time that answers show."""
        return self.clock.now_ms() + self.faults.skew_ms()

    # ---- candles -----------------------------------------------------------------------------------------------

    def klines(self, params: Params) -> list[list[Any]]:
        contract = self.contract(params)
        return self._klines(params, contract, "klines")

    def sampled_klines(self, params: Params, what: str) -> list[list[Any]]:
        contract = self.contract(params, "pair" if what == "index" else "symbol")
        return self._klines(params, contract, f"{what}PriceKlines" if what != "premium" else "premiumIndexKlines")

    def continuous_klines(self, params: Params) -> list[list[Any]]:
        return self._klines(params, self._of_pair(params), "klines")

    def _of_pair(self, params: Params) -> Contract:
        """The contract of a pair and a type. Raises Refused."""
        contract = self.contract(params, "pair")
        if params.get("contractType") not in ("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER", "TRADIFI_PERPETUAL"):
            raise asking.mandatory("contractType")
        same = (
            one
            for one in self.tape.contracts.values()
            if (one.pair, one.contract_type) == (contract.pair, params["contractType"])
        )
        return next(same, contract)

    def _klines(self, params: Params, contract: Contract, dataset: str) -> list[list[Any]]:
        interval = params.get("interval")
        if not interval:
            raise asking.mandatory("interval")
        if interval not in INTERVALS_MS:
            raise Refused(400, -1120, "Invalid interval.")
        limit = self.limit(params, 500, 1_500)
        start_ms, end_ms = asking.span(params)
        cap = self.faults.rows_max(f"/fapi/v1/{dataset}", limit)
        now_ms = self.clock.now_ms()
        ended_ms = min(now_ms, contract.delivery_ms - 1, _LAST_MS if end_ms is None else end_ms)
        found = self._page(contract, dataset, interval, limit, start_ms, ended_ms)
        found = found[:cap] if start_ms is not None else found[-cap:]
        if dataset == "klines":
            return rows.klines(found, interval, Units.of(contract))
        return rows.sampled_klines(found, interval)

    def _page(
        self, contract: Contract, dataset: str, interval: str, limit: int, start_ms: int | None, ended_ms: int
    ) -> Rows:
        """At least limit candles where there are so many, whatever is missing between them."""
        length_ms = INTERVALS_MS[interval] or 31 * DAY_MS
        listed_ms = floor_open_ms(contract.onboard_ms, interval)
        pieces: list[Rows] = [bars.empty()]
        have, reach = 0, limit + 1
        at_ms = ended_ms + 1 if start_ms is None else max(start_ms, listed_ms)
        while have < limit and (at_ms > listed_ms if start_ms is None else at_ms <= ended_ms):
            if start_ms is None:
                low_ms, high_ms = floor_open_ms(max(0, at_ms - 1), interval) - (reach - 1) * length_ms, at_ms
            else:
                low_ms, high_ms = at_ms, min(ended_ms + 1, at_ms + reach * length_ms)
            found = self._shown(contract, dataset, interval, max(0, low_ms), high_ms)
            pieces.append(found)
            have += len(found)
            at_ms, reach = low_ms if start_ms is None else high_ms, reach * 2
        page: Rows = np.concatenate(pieces[::-1] if start_ms is None else pieces)
        return page

    def _shown(self, contract: Contract, dataset: str, interval: str, first_ms: int, end_ms: int) -> Rows:
        """Candles that open in [first_ms, end_ms), less what faults hide."""
        now_ms = self.clock.now_ms()
        if dataset == "klines":
            found = self.tape.candles(contract, interval, first_ms, end_ms, now_ms)
        else:
            what = dataset.removesuffix("PriceKlines").removesuffix("IndexKlines")
            found = self.tape.sampled_candles(contract, what, interval, first_ms, end_ms, now_ms)
        return self.faults.candles("rest", dataset, contract.symbol, interval, found)

    # ---- trades ------------------------------------------------------------------------------------------------

    def agg_trades(self, params: Params) -> list[dict[str, Any]]:
        contract = self.contract(params)
        limit = self.limit(params, 500, 1_000)
        start_ms, end_ms = asking.span(params)
        from_id = asking.number(params, "fromId")
        if from_id is None:
            found = self._aggregates_in(contract, limit, start_ms, end_ms)
        else:
            first_ms, last_ms = 0 if start_ms is None else start_ms, _LAST_MS if end_ms is None else end_ms
            found = self._aggregates_from(contract, from_id, limit).between(first_ms, last_ms + 1)
        cap = self.faults.rows_max("/fapi/v1/aggTrades", limit)
        is_first = start_ms is not None or from_id is not None
        return rows.aggregates(found.take(slice(cap) if is_first else slice(-cap, None)), Units.of(contract))

    def _aggregates_in(self, contract: Contract, limit: int, start_ms: int | None, end_ms: int | None) -> Aggregates:
        now_ms = self.clock.now_ms()
        for moment_ms in (start_ms, end_ms):
            if moment_ms is not None:
                self._require_kept(moment_ms)
        high_ms = min(now_ms, _LAST_MS if end_ms is None else end_ms) + 1
        if start_ms is None:
            found = self._newest(contract, limit, high_ms)
        else:
            found = self.tape.aggregates(contract, start_ms, max(start_ms, high_ms))
        return self.faults.aggregates("rest", contract.symbol, found)

    def _aggregates_from(self, contract: Contract, from_id: int, limit: int) -> Aggregates:
        """At least limit where there are so many, whatever is missing between them."""
        now_ms = self.clock.now_ms()
        pieces, have = [], 0
        while have < limit:
            held = self.tape.aggregates_from(contract, from_id, limit).between(0, now_ms + 1)
            pieces.append(self.faults.aggregates("rest", contract.symbol, held))
            if len(held) == 0:
                break
            self._require_kept(int(held.at_ms[0]))
            from_id, have = int(held.agg_id[-1]) + 1, have + len(pieces[-1])
        return joined(pieces)

    def _require_kept(self, moment_ms: int) -> None:
        if moment_ms < self.clock.now_ms() - _AGGREGATES_KEPT_MS and not self._truth:
            raise asking.recent(2)

    def trades(self, params: Params) -> list[dict[str, Any]]:
        contract = self.contract(params)
        limit = self.limit(params, 500, 1_000)
        now_ms = self.clock.now_ms()
        fills = self.tape.fills(self._newest(contract, limit, now_ms + 1), contract).between(0, now_ms + 1)
        fills = self.faults.fills("rest", contract.symbol, fills)
        cap = self.faults.rows_max("/fapi/v1/trades", limit)
        return rows.trades(fills.take(slice(-cap, None)), Units.of(contract))

    def historical_trades(self, params: Params) -> list[dict[str, Any]]:
        contract = self.contract(params)
        limit = self.limit(params, 100, 500)
        from_id = asking.number(params, "fromId")
        now_ms = self.clock.now_ms()
        if from_id is None:
            found = self._newest(contract, limit, now_ms + 1)
        else:
            found = self.tape.aggregates_from(contract, self.tape.agg_id_of(contract, from_id), limit + 1)
            if len(found) and int(found.at_ms[0]) < now_ms - _TRADES_KEPT_MS and not self._truth:
                raise Refused(400, -4166, "Search window is restricted to recent 1 month only.")
        fills = self.tape.fills(found, contract).between(0, now_ms + 1)
        fills = self.faults.fills("rest", contract.symbol, fills.take(fills.trade_id >= (from_id or 0)))
        cap = self.faults.rows_max("/fapi/v1/historicalTrades", limit)
        return rows.trades(fills.take(slice(cap) if from_id is not None else slice(-cap, None)), Units.of(contract))

    def _newest(self, contract: Contract, count: int, end_ms: int) -> Aggregates:
        """The last aggregates before end_ms, at least count where there are so many."""
        end_ms = min(end_ms, contract.delivery_ms)
        back_ms = 16 * MINUTE_MS
        while True:
            found = self.tape.aggregates(contract, max(contract.onboard_ms, end_ms - back_ms), max(end_ms, 0))
            if len(found) >= count or end_ms - back_ms <= contract.onboard_ms:
                return found.take(slice(-count, None))
            back_ms *= 4

    # ---- the book, the price, funding ---------------------------------------------------------------------------

    def depth(self, params: Params) -> dict[str, Any]:
        contract = self.contract(params)
        limit = asking.number(params, "limit")
        if limit is not None and limit not in asking.DEPTH_WEIGHTS:
            raise asking.no_depth(limit)
        return self._book(contract, limit or 500)

    def rpi_depth(self, params: Params) -> dict[str, Any]:
        """The book with hidden orders; there are none here."""
        contract = self.contract(params)
        limit = asking.number(params, "limit")
        if limit not in (None, 1_000):
            raise asking.no_depth(limit)
        return self._book(contract, 1_000)

    def _book(self, contract: Contract, levels: int) -> dict[str, Any]:
        step = self.books.snapshot_step(self.clock.now_ms())
        book = self.books.book(contract, step, levels)
        units = Units.of(contract)
        return {
            "lastUpdateId": book.update_id, "E": self.shown_ms, "T": book.at_ms,
            "bids": rows.levels(book.bids, units), "asks": rows.levels(book.asks, units),
        }  # fmt: skip

    def funding_rate(self, params: Params) -> list[dict[str, Any]]:
        contracts = [self.contract(params)] if params.get("symbol") else self.listed()
        limit = self.limit(params, 100, 1_000)
        start_ms, end_ms = asking.span(params)
        last_ms = min(self.clock.now_ms(), _LAST_MS if end_ms is None else end_ms)
        if len(contracts) == 1:  # of what was delivered the last ones are those before that
            last_ms = min(last_ms, contracts[0].delivery_ms + MINUTE_MS)
        first_ms = last_ms - (limit + 2) * 8 * HOUR_MS if start_ms is None else start_ms
        found = [
            answer for one in contracts for answer in self.quotes.settled(one, self.faults, "rest", first_ms, last_ms)
        ]
        found.sort(key=lambda answer: answer["fundingTime"])
        cap = self.faults.rows_max("/fapi/v1/fundingRate", limit)
        return found[-cap:] if start_ms is None else found[:cap]

    def premium_index(self, params: Params) -> Any:
        return self._each(params, lambda one: self.quotes.premium(one, self.clock.now_ms(), self.shown_ms))

    def ticker(self, params: Params) -> Any:
        return self._each(params, lambda one: self.quotes.day(one, self.clock.now_ms()))

    def price(self, params: Params) -> Any:
        def of(one: Contract) -> dict[str, Any]:
            last = self._newest(one, 1, self.clock.now_ms() + 1)
            at = {"price": int(last.price[-1]), "time": int(last.at_ms[-1])} if len(last) else {"price": 0, "time": 0}
            return {"symbol": one.symbol, "price": decimal(at["price"], one.price_precision), "time": at["time"]}

        return self._each(params, of)

    def book_ticker(self, params: Params) -> Any:
        step = self.books.snapshot_step(self.clock.now_ms())
        return self._each(params, lambda one: self.quotes.best(one, self.books.book(one, step, 1)))

    def open_interest(self, params: Params) -> dict[str, Any]:
        contract = self.contract(params)
        return self.quotes.open_interest(contract, self.clock.now_ms())

    def index_info(self, params: Params) -> Any:
        """Of one index as an object, of all as an array."""
        every, now_ms = self.tape.contracts.values(), self.clock.now_ms()
        if not params.get("symbol"):
            return [standing.index_info(one, every, now_ms) for one in every if one.underlying == standing.INDEX]
        if (contract := self.contract(params)).underlying != standing.INDEX:
            raise Refused(400, -1121, "Invalid symbol.")
        return standing.index_info(contract, every, now_ms)

    def constituents(self, params: Params) -> Any:
        return standing.constituents(self.contract(params), self.quotes, self.clock.now_ms(), self.shown_ms)

    def insurance(self, params: Params) -> Any:
        """The fund of one contract as an object, all of them as an array."""
        funds = standing.insurance(self.listed(), self.clock.now_ms())
        if not params.get("symbol"):
            return funds
        symbol = self.contract(params).symbol
        return next(one for one in funds if symbol in one["symbols"])

    def deleveraging(self, params: Params) -> Any:
        return self._each(params, lambda one: standing.deleveraging(one, self.clock.now_ms()))

    def schedule(self, params: Params) -> Any:
        return standing.schedule(self.listed(), self.clock.now_ms())

    def listed(self) -> list[Contract]:
        """The contracts of this market."""
        return rows.known(list(self.tape.contracts.values()))

    def statistic(self, params: Params, name: str) -> list[dict[str, Any]]:
        contract = self._of_pair(params) if name == "basis" else self.contract(params)
        period = params.get("period")
        if not period:
            raise asking.mandatory("period")
        if period not in PERIODS:
            raise Refused(400, -1130, "Data sent for parameter 'period' is not valid.")
        limit = self.limit(params, 30, 500)
        start_ms, end_ms = asking.span(params)
        now_ms = self.clock.now_ms()
        kept_ms = now_ms - KEPT_MS
        if start_ms is not None and start_ms < kept_ms and not self._truth:
            raise Refused(400, -1130, "Data sent for parameter 'startTime' is not valid.")
        until_ms = min(now_ms, _LAST_MS if end_ms is None else end_ms)
        opens = opens_between(period, max(contract.onboard_ms, kept_ms if start_ms is None else start_ms), until_ms)
        cap = self.faults.rows_max(f"/futures/data/{name}", limit)
        page = opens[-cap:] if start_ms is None else opens[:cap]
        return ANSWERS[name](self.tape, self.quotes, contract, period, page)

    def _each(self, params: Params, of: Callable[[Contract], dict[str, Any]]) -> Any:
        """One object for one symbol, an array of what is trading without."""
        if params.get("symbol"):
            return of(self.contract(params))
        now_ms = self.clock.now_ms()
        return [of(one) for one in self.listed() if one.status(now_ms) == "TRADING"]


def _listed(rest: Rest, _: Params) -> Any:
    return listing.exchange_info(rest.listed(), rest.shown_ms, rest.limits.weight)


def _fundings(rest: Rest, _: Params) -> Any:
    return listing.funding_info(rest.tape.contracts.values(), rest.clock.now_ms())


def _statistic(name: str) -> Callable[[Rest, Params], Any]:
    return lambda rest, params: rest.statistic(params, name)


_ENDPOINTS: Final[dict[str, Endpoint]] = {
    "ping": Endpoint(asking.fixed(1), lambda rest, _: {}),
    "time": Endpoint(asking.fixed(1), lambda rest, _: {"serverTime": rest.shown_ms}),
    "exchangeInfo": Endpoint(asking.fixed(1), _listed),
    "klines": Endpoint(asking.kline_weight, Rest.klines),
    "continuousKlines": Endpoint(asking.kline_weight, Rest.continuous_klines),
    "markPriceKlines": Endpoint(asking.kline_weight, lambda rest, params: rest.sampled_klines(params, "mark")),
    "indexPriceKlines": Endpoint(asking.kline_weight, lambda rest, params: rest.sampled_klines(params, "index")),
    "premiumIndexKlines": Endpoint(asking.kline_weight, lambda rest, params: rest.sampled_klines(params, "premium")),
    "aggTrades": Endpoint(asking.fixed(20), Rest.agg_trades),
    "trades": Endpoint(asking.fixed(5), Rest.trades),
    "historicalTrades": Endpoint(asking.fixed(200), Rest.historical_trades),
    "depth": Endpoint(asking.depth_weight, Rest.depth),
    "rpiDepth": Endpoint(asking.fixed(20), Rest.rpi_depth),
    "fundingRate": Endpoint(asking.fixed(1), Rest.funding_rate, FUNDING),
    "fundingInfo": Endpoint(asking.fixed(1), _fundings, FUNDING),
    "premiumIndex": Endpoint(asking.by_symbol(1, 10), Rest.premium_index),
    "ticker/24hr": Endpoint(asking.by_symbol(1, 40), Rest.ticker),
    "ticker/price": Endpoint(asking.by_symbol(1, 2), Rest.price),
    "ticker/bookTicker": Endpoint(asking.by_symbol(2, 5), Rest.book_ticker),
    "openInterest": Endpoint(asking.fixed(1), Rest.open_interest),
    "indexInfo": Endpoint(asking.by_symbol(1, 10), Rest.index_info),
    "constituents": Endpoint(asking.fixed(2), Rest.constituents),
    "insuranceBalance": Endpoint(asking.fixed(1), Rest.insurance),
    "symbolAdlRisk": Endpoint(asking.fixed(1), Rest.deleveraging),
    "tradingSchedule": Endpoint(asking.fixed(5), Rest.schedule),
    **{f"futures/data/{name}": Endpoint(asking.fixed(1), _statistic(name), STATISTICS) for name in ANSWERS},
}
