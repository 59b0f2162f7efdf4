"""A small market as the publisher sends it: two symbols, seven streams, every byte but the message ids from a seed.

What one stream tells follows from the others, as at the venue: aggregates gather trades, candles are made of them, book
changes name the one before, best prices and books lie around the last trade. So every cross-check is exact, and an
auditor that says anything at all of it is wrong.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from data_manager.domain.time import HOUR_MS, MINUTE_MS, SECOND_MS
from data_manager.services.envelope import Enveloper, Recorded

START_MS: Final = 1_736_121_600_000  # 2025-01-06, a Monday
_SYMBOLS: Final = (("BTCUSDT", 6_000_000), ("ETHUSDT", 300_000))  # and the first price, in cents
_UPDATE_S: Final = 10  # from one state of the open candle to the next
_BOOK_S: Final = 2
_ORDER_S: Final = (1, 1, 1, 2)  # from one order to the next, drawn from


class Message(NamedTuple):
    """One message as the bus hands it over."""

    received_ms: int
    payload: bytes


class Said(NamedTuple):
    """When the venue says it, on which stream, and the event in the venue's letters."""

    at_ms: int
    stream: str
    event: dict[str, Any]


def made(seed: int, minutes: int) -> list[Message]:
    """That many minutes of the market, in the order they are received."""
    chance = Random(seed)
    markets = [_Market(symbol, cents, Random(f"{seed} {symbol}")) for symbol, cents in _SYMBOLS]
    said = (one for market in markets for one in market.says(minutes))
    late = [one._replace(at_ms=one.at_ms + chance.randint(15, 40)) for one in said]
    enveloper, encode = Enveloper(), msgspec.json.encode
    return [
        Message(at_ms, enveloper.wrap(Recorded(at_ms * 1_000_000, stream, encode(event)), 0))
        for at_ms, stream, event in sorted(late, key=lambda one: one.at_ms)
    ]


class _Market:
    """One symbol. Prices are whole cents, quantities whole thousandths."""

    def __init__(self, symbol: str, cents: int, chance: Random) -> None:
        self._symbol = symbol
        self._cents = cents
        self._chance = chance
        self._trade_id, self._agg_id, self._update_id = chance.randrange(10**8), chance.randrange(10**8), 10**9

    def says(self, minutes: int) -> Iterator[Said]:
        """Everything, minute by minute; not in order of time."""
        for minute in range(minutes):
            open_ms = START_MS + minute * MINUTE_MS
            bar = _Bar(open_ms)
            order_s = 0
            for second in range(60):
                at_ms = open_ms + second * SECOND_MS
                if second == order_s:
                    yield from self._order(at_ms + self._chance.randrange(100, 400), bar)
                    order_s += self._chance.choice(_ORDER_S)
                yield from self._quotes(at_ms, whole=second % _BOOK_S == 0)
                if second % _UPDATE_S == _UPDATE_S - 1 and second < 59:
                    yield self._kline(bar, at_ms + 900, closed=False)
            yield self._kline(bar, open_ms + MINUTE_MS + 20, closed=True)

    def _say(self, at_ms: int, stream: str, kind: str, **letters: Any) -> Said:
        event = {"e": kind, "E": at_ms, "s": self._symbol, **letters}
        return Said(at_ms, f"{self._symbol.lower()}@{stream}", event)

    def _order(self, at_ms: int, bar: "_Bar") -> Iterator[Said]:
        """One taker order: its fills, all at one price, and the aggregate of them."""
        chance = self._chance
        self._cents += chance.choice((-3, -2, -1, 1, 2, 3)) * self._cents // 300_000
        first, total, sold = self._trade_id + 1, 0, chance.random() < 0.5
        both = {"p": _decimal(self._cents, 2), "T": at_ms, "m": sold}
        for _ in range(chance.randint(1, 2)):
            self._trade_id += 1
            quantity = chance.randint(1, 5_000)
            total += quantity
            bar.add(self._trade_id, self._cents, quantity, sold=sold)
            own = {"t": self._trade_id, "q": _decimal(quantity, 3), "X": "MARKET"}
            yield self._say(at_ms + 5, "trade", "trade", **own, **both)
        self._agg_id += 1
        ids = {"a": self._agg_id, "f": first, "l": self._trade_id}
        yield self._say(at_ms + 6, "aggTrade", "aggTrade", q=_decimal(total, 3), **ids, **both)

    def _quotes(self, at_ms: int, *, whole: bool) -> Iterator[Said]:
        """Around the last price: a change of the book, what follows from it, the mark price. whole: the book too."""
        bids, asks = self._levels(-1), self._levels(1)
        before, self._update_id = self._update_id, self._update_id + self._chance.randint(3, 9)
        said_ms = at_ms + 500
        removed = [_decimal(self._cents - 9, 2), "0.000"]
        change = {
            "T": said_ms - 3,
            "U": before + 1,
            "u": self._update_id,
            "pu": before,
            "b": [removed, *bids],
            "a": asks,
        }
        yield self._say(said_ms, "depth@100ms", "depthUpdate", **change)
        best = {"b": bids[0][0], "B": bids[0][1], "a": asks[0][0], "A": asks[0][1]}
        yield self._say(said_ms + 1, "bookTicker", "bookTicker", u=self._update_id, T=said_ms - 3, **best)
        if whole:
            book = {"lastUpdateId": self._update_id, "bids": bids, "asks": asks}
            yield Said(said_ms + 2, f"{self._symbol.lower()}@depth20@100ms", book)
        price = _decimal(self._cents, 2)
        funding = {"r": "0.00010000", "T": START_MS + 8 * HOUR_MS}
        yield self._say(at_ms, "markPrice@1s", "markPriceUpdate", p=price, i=price, P=price, **funding)

    def _levels(self, side: int) -> list[list[str]]:
        sizes = [self._chance.randint(1, 9_000) for _ in range(3)]
        return [[_decimal(self._cents + side * at, 2), _decimal(size, 3)] for at, size in enumerate(sizes, 1)]

    def _kline(self, bar: "_Bar", said_ms: int, *, closed: bool) -> Said:
        candle = {"s": self._symbol, "i": "1m", **bar.letters(), "x": closed}
        return self._say(said_ms, "kline_1m", "kline", k=candle)


class _Bar:
    """A candle as it grows. The first second of every minute has a fill."""

    def __init__(self, open_ms: int) -> None:
        self._open_ms = open_ms
        self._ids: list[int] = []
        self._cents: list[int] = []
        self._volume = self._quote = self._bought = self._bought_quote = 0

    def add(self, trade_id: int, cents: int, quantity: int, *, sold: bool) -> None:
        """One fill."""
        self._ids.append(trade_id)
        self._cents.append(cents)
        self._volume += quantity
        self._quote += cents * quantity
        if not sold:
            self._bought += quantity
            self._bought_quote += cents * quantity

    def letters(self) -> dict[str, Any]:
        """As the venue has it."""
        prices = {"o": self._cents[0], "h": max(self._cents), "l": min(self._cents), "c": self._cents[-1]}
        return {
            "t": self._open_ms, "T": self._open_ms + MINUTE_MS - 1, "f": self._ids[0], "L": self._ids[-1],
            **{letter: _decimal(value, 2) for letter, value in prices.items()}, "n": len(self._ids),
            "v": _decimal(self._volume, 3), "q": _decimal(self._quote, 5), "V": _decimal(self._bought, 3),
            "Q": _decimal(self._bought_quote, 5),
        }  # fmt: skip


def _decimal(value: int, places: int) -> str:
    whole, fraction = divmod(value, 10**places)
    return f"{whole}.{fraction:0{places}d}"
