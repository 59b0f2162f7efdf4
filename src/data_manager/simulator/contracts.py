"""What is listed: the contracts of the simulated exchange, and the rules each trades by.

Prices are whole numbers of 10**-price_precision, quantities of 10**-quantity_precision.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.errors import BadQuery
from data_manager.domain.time import HOUR_MS, WEEK_MS, datetime_of, ms_of, parse_time
from data_manager.simulator.noise import key_of

NEVER_MS: Final = 4_133_404_800_000  # the venue's delivery date of what is never delivered


class Contract(Struct, frozen=True, kw_only=True):
    """One contract. Trades happen at onboard_ms <= t < delivery_ms."""

    symbol: str
    base_asset: str
    quote_asset: str = "USDT"
    pair: str
    market: str = "um"
    contract_type: str = "PERPETUAL"
    underlying: str = "COIN"
    onboard_ms: int
    delivery_ms: int = NEVER_MS
    price_precision: int
    tick: int = 1  # of the price, in its units
    quantity_precision: int
    base_price: int  # what the price swings around, in its units
    swing_ppb: int  # of the price within a minute, in billionths
    pace: int  # orders a minute, in 64ths, beside those that every 3rd and 5th minute has
    quantity_scale: int  # the largest orders, in units of quantity
    funding_hours: tuple[int, ...] = (8,)  # per week, in turn; empty: no funding
    funding_cap: int = 2_000_000  # of a rate, in 10**-8
    interest: int = 10_000  # of a rate per 8 hours, in 10**-8

    def status(self, now_ms: int) -> str:
        """The venue's word for where the contract stands in its life."""
        if now_ms < self.onboard_ms:
            return "PENDING_TRADING"
        return "TRADING" if now_ms < self.delivery_ms else "SETTLING"

    @property
    def is_tradfi(self) -> bool:
        """Whether what underlies it is traded on ordinary exchanges."""
        return self.contract_type.startswith("TRADIFI")

    @property
    def is_perpetual(self) -> bool:
        return "PERPETUAL" in self.contract_type


def universe(
    symbols: Sequence[str], seed: int, start_ms: int, *, activity: float = 1.0, listed_ms: int | None = None
) -> dict[str, Contract]:
    """The contracts by symbol. No symbols: the default twenty and the odd ones (see docs/simulator.md).

    start_ms chooses the quarterly and the contract still to be listed, nothing else. activity multiplies how much is
    traded; listed_ms replaces all dates of listing. Raises BadQuery for a name no contract can have.
    """
    wanted = symbols or (*_KNOWN, *_odd_names(start_ms))
    found = {symbol: _contract(symbol, seed, start_ms) for symbol in wanted}
    return {symbol: _adjusted(one, activity, listed_ms) for symbol, one in found.items()}


def settlements(contract: Contract, first_ms: int, last_ms: int) -> Iterator[int]:
    """Moments of funding with first_ms <= t <= last_ms, ascending, while the contract trades."""
    if not contract.funding_hours:
        return
    first_ms = max(first_ms, contract.onboard_ms + 1)
    last_ms = min(last_ms, contract.delivery_ms)
    at_ms = -(-first_ms // HOUR_MS) * HOUR_MS
    while at_ms <= last_ms:
        length_ms = interval_ms(contract, at_ms)
        if at_ms % length_ms:
            at_ms += length_ms - at_ms % length_ms
            continue
        yield at_ms
        at_ms += HOUR_MS if interval_ms(contract, at_ms + HOUR_MS) < length_ms else length_ms


def interval_ms(contract: Contract, at_ms: int) -> int:
    """How long the funding interval is that ends at at_ms."""
    week = (at_ms - 1) // WEEK_MS
    return contract.funding_hours[week % len(contract.funding_hours)] * HOUR_MS


def next_settlement(contract: Contract, now_ms: int) -> int:
    """The first moment of funding after now_ms; 0 where none is scheduled, as the venue says it."""
    return next(settlements(contract, now_ms + 1, now_ms + 9 * HOUR_MS), 0)


def _adjusted(contract: Contract, activity: float, listed_ms: int | None) -> Contract:
    pace = max(1, round(contract.pace * activity))
    onboard_ms = contract.onboard_ms if listed_ms is None else listed_ms - listed_ms % 60_000
    return replace(contract, pace=pace, onboard_ms=onboard_ms)


def _contract(symbol: str, seed: int, start_ms: int) -> Contract:
    if symbol in _KNOWN:
        return _KNOWN[symbol]
    if symbol in (odd := _odd(start_ms)):
        return odd[symbol]
    if dated := _DATED.fullmatch(symbol):
        return _quarterly(_contract(dated["pair"], seed, start_ms), _delivery_ms(symbol, dated["date"]), start_ms)
    quote = next((one for one in ("USDT", "USDC", "BUSD", "BTC") if symbol.endswith(one) and symbol != one), None)
    if quote is None or symbol != symbol.upper() or not 2 <= len(symbol) <= 32:
        raise BadQuery("symbols", symbol, "must be upper case and end with its quote, such as BTCUSDT, or with a day")
    return _drawn(symbol, quote, key_of(seed, "contract", symbol))


def _drawn(symbol: str, quote: str, chance: int) -> Contract:
    """A contract nobody described: its rules follow from its name and the seed."""
    return Contract(
        symbol=symbol, base_asset=symbol.removesuffix(quote), quote_asset=quote, pair=symbol,
        onboard_ms=ms_of(datetime_of(_LISTED) + timedelta(days=chance % 1_000)),
        price_precision=chance % 4 + 2, quantity_precision=chance >> 8 & 3,
        base_price=20_000 + (chance >> 16) % 180_000, swing_ppb=300_000 + (chance >> 32) % 300_000,
        pace=32 + (chance >> 40) % 256, quantity_scale=2_000 + (chance >> 48) % 40_000,
        funding_hours=((8,), (4,), (8, 4))[chance % 3],
    )  # fmt: skip


_LISTED: Final = parse_time("2020-10-01")
_DATED: Final = re.compile(r"(?P<pair>[^_]+)_(?P<date>\d{6})", re.ASCII)


def _coin(
    base: str, listed: str, digits: tuple[int, int], price: int, pace: float, scale: int, **more: object
) -> Contract:
    facts: dict[str, object] = {
        "symbol": f"{base}USDT", "pair": f"{base}USDT", "base_asset": base, "onboard_ms": parse_time(listed),
        "price_precision": digits[0], "quantity_precision": digits[1], "base_price": price, "swing_ppb": 400_000,
        "pace": round(pace * 64), "quantity_scale": scale,
    }  # fmt: skip
    return Contract(**(facts | more))  # type: ignore[arg-type]  # a table: every row is checked by the tests


def _by_symbol(contracts: Iterable[Contract]) -> dict[str, Contract]:
    return {one.symbol: one for one in contracts}


_KNOWN: Final = _by_symbol((
    _coin("BTC", "2019-09-08T17:55:00Z", (2, 3), 6_400_000, 14, 4_000, tick=10, swing_ppb=280_000, funding_cap=300_000),
    _coin("ETH", "2019-11-27T07:45:00Z", (2, 3), 310_000, 11, 30_000, swing_ppb=330_000, funding_cap=300_000),
    _coin("BNB", "2020-02-10T08:00:00Z", (3, 2), 612_400, 5, 4_000, tick=10),
    _coin("SOL", "2020-09-14T07:00:00Z", (4, 0), 1_523_000, 8, 900, tick=100, funding_hours=(8, 4)),
    _coin("XRP", "2020-01-06T08:00:00Z", (4, 1), 23_120, 7, 400_000),
    _coin("DOGE", "2020-07-10T09:00:00Z", (6, 0), 182_340, 6, 90_000, tick=10),
    _coin("ADA", "2020-01-31T08:00:00Z", (5, 0), 81_230, 4, 30_000, tick=10),
    _coin("AVAX", "2020-09-23T07:00:00Z", (4, 0), 287_400, 3, 900, tick=10),
    _coin("LINK", "2020-01-17T08:00:00Z", (3, 2), 18_420, 4, 90_000),
    _coin("LTC", "2020-01-09T08:00:00Z", (2, 3), 10_340, 3, 200_000),
    _coin("DOT", "2020-08-22T07:00:00Z", (3, 1), 6_120, 3, 30_000),
    _coin("TRX", "2020-01-15T08:00:00Z", (5, 0), 24_310, 3, 90_000),
    _coin("BCH", "2019-12-19T08:00:00Z", (2, 3), 48_210, 2, 20_000),
    _coin("SUI", "2023-05-03T12:00:00Z", (6, 1), 3_214_000, 4, 90_000, tick=100, funding_hours=(4,)),
    _coin("1000PEPE", "2023-05-05T16:00:00Z", (7, 0), 128_900, 5, 900_000, funding_hours=(4, 8, 4, 1)),
    _coin("1000SHIB", "2021-05-10T10:00:00Z", (6, 0), 14_230, 3, 900_000),
    _coin("WIF", "2024-01-18T11:30:00Z", (4, 1), 21_430, 2, 30_000, funding_hours=(8, 4), swing_ppb=700_000),
    _coin("ALGO", "2020-09-17T07:00:00Z", (4, 1), 18_720, 0.5, 90_000),
    _coin("OMG", "2020-07-03T09:00:00Z", (4, 1), 6_341, 0.25, 9_000, delivery_ms=parse_time("2025-01-31T09:00:00Z")),
    _coin("币安人生", "2025-10-09T09:30:00Z", (5, 0), 30_120, 1, 30_000, funding_hours=(4,)),
    _coin("XAU", "2025-12-11T08:00:00Z", (2, 3), 412_300, 2, 3_000, contract_type="TRADIFI_PERPETUAL",
          underlying="COMMODITY", funding_hours=(4,), funding_cap=500_000, interest=0, swing_ppb=120_000),
    _coin("BTCDOM", "2021-06-16T11:00:00Z", (1, 3), 48_210, 0.5, 30_000, underlying="INDEX"),
    _coin("AAVE", "2020-10-16T07:00:00Z", (3, 1), 284_310, 1, 900, symbol="AAVEUSD_PERP", pair="AAVEUSD",
          market="cm", quote_asset="USD"),
))  # fmt: skip


def _odd_names(start_ms: int) -> tuple[str, ...]:
    return tuple(_odd(start_ms))


def _odd(start_ms: int) -> dict[str, Contract]:
    """The quarterly that is next to be delivered, and a contract that is announced for the day after tomorrow."""
    quarterly = _quarterly(_KNOWN["BTCUSDT"], _quarter_end(start_ms), start_ms)
    listed_ms = (start_ms // (24 * HOUR_MS) + 2) * 24 * HOUR_MS
    announced = _coin("SOON", "2020-01-01", (4, 1), 12_340, 2, 9_000, onboard_ms=listed_ms)
    return {quarterly.symbol: quarterly, announced.symbol: announced}


def _quarterly(pair: Contract, delivery_ms: int, start_ms: int) -> Contract:
    """The contract on a pair that is delivered then."""
    is_next = delivery_ms > _quarter_end(start_ms)
    return replace(
        pair, symbol=f"{pair.symbol}_{datetime_of(delivery_ms):%y%m%d}", delivery_ms=delivery_ms, pace=64,
        contract_type="NEXT_QUARTER" if is_next else "CURRENT_QUARTER", onboard_ms=delivery_ms - 26 * WEEK_MS,
        funding_hours=(),
    )  # fmt: skip


def _delivery_ms(symbol: str, date: str) -> int:
    try:
        return parse_time(f"20{date[:2]}-{date[2:4]}-{date[4:]}T08:00:00Z")
    except BadQuery as error:
        raise BadQuery("symbols", symbol, "must end with a day, such as BTCUSDT_261225") from error


def _quarter_end(ms: int) -> int:
    """The last Friday of the quarter at 08:00, the next one after ms."""
    at = datetime_of(ms).replace(day=1, hour=8, minute=0, second=0, microsecond=0)
    while True:
        following = (at + timedelta(days=32)).replace(day=1)
        last = following - timedelta(days=1)
        friday = last - timedelta(days=(last.weekday() - 4) % 7)
        if at.month % 3 == 0 and ms_of(friday) > ms:
            return ms_of(friday)
        at = following
