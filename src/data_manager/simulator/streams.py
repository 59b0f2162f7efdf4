"""What each stream of the websocket sends between two instants: names, routes, payloads.

    public   <s>@trade  <s>@bookTicker  !bookTicker  <s>@depth[5|10|20][@100ms|@500ms]  <s>@rpiDepth@500ms
    market   <s>@aggTrade  <s>@kline_<i>  <pair>_<type>@continuousKline_<i>  <s>@markPrice[@1s]  !markPrice@arr[@1s]
             <s>@ticker  !ticker@arr  <s>@miniTicker  !miniTicker@arr  <s>@forceOrder  !forceOrder@arr  !contractInfo
             <s>@compositeIndex  tradingSession

Symbols are lower case (ASCII letters; others stay). Any other name is no stream: asked for, it is acknowledged and
silent. The same instants give the same events, whoever asks and however the time between is cut.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Struct

from data_manager.domain.checks.bars import next_opens, opens_of
from data_manager.domain.time import DAY_MS, INTERVALS_MS, SECOND_MS
from data_manager.simulator import bars, path, rows, standing
from data_manager.simulator.answers import Units, decimal
from data_manager.simulator.books import Book, Books
from data_manager.simulator.contracts import Contract, next_settlement
from data_manager.simulator.market import Tape
from data_manager.simulator.noise import Index, field, key_of, one
from data_manager.simulator.quotes import Quotes

_ENCODE = msgspec.json.Encoder().encode
_UPDATE_MS: Final = 250
_CLOSE_LATE_MS: Final = 180  # at most, and always before the next candle's first update


class Sent(NamedTuple):
    """One event: when it leaves the exchange (its E), and its payload without E's skew."""

    at_ms: int
    payload: bytes


class Feed(Protocol):
    """Where sockets get their events from."""

    def route(self, name: str) -> str | None:
        """public or market; None for what is no stream."""
        ...

    def events(self, name: str, after_ms: int, until_ms: int, skew_ms: int) -> list[Sent]:
        """What the stream sends at after_ms < t <= until_ms, ascending; skew_ms is added to the E that is shown."""
        ...


class Stream(Struct, frozen=True):
    """One name, understood. contract is None for streams of all."""

    kind: str
    route: str
    contract: Contract | None = None
    interval: str = ""
    levels: int = 0
    every_ms: int = 0


class Streams:
    """A Feed made from a tape."""

    def __init__(self, tape: Tape, quotes: Quotes, books: Books) -> None:
        self._tape = tape
        self._quotes = quotes
        self._books = books
        self._by_lower = {_lower(symbol): contract for symbol, contract in tape.contracts.items()}
        self._known: dict[str, Stream | None] = {}

    def route(self, name: str) -> str | None:
        """See Feed."""
        stream = self.find(name)
        return stream.route if stream else None

    def find(self, name: str) -> Stream | None:
        """The stream of that name, if there is one."""
        if name not in self._known:
            if len(self._known) > 65_536:
                self._known.clear()
            self._known[name] = self._understood(name)
        return self._known[name]

    def events(self, name: str, after_ms: int, until_ms: int, skew_ms: int) -> list[Sent]:
        """See Feed."""
        stream = self.find(name)
        if stream is None:
            return []
        make = _KINDS[stream.kind]
        sent = make(self, stream, after_ms, until_ms, skew_ms)
        return sorted(sent, key=lambda event: event.at_ms)

    def _understood(self, name: str) -> Stream | None:
        for pattern, kind, route in _NAMES:
            found = pattern.fullmatch(name)
            if found is None:
                continue
            words = found.groupdict()
            contract = self._by_lower.get(words["s"]) if "s" in words else None
            if "s" in words and contract is None:
                return None
            if (interval := words.get("i") or "") and interval not in INTERVALS_MS:
                return None
            every_ms = int(words.get("speed") or 0) or 1_000 * int(words.get("seconds") or 0) or _EVERY_MS.get(kind, 0)
            return Stream(kind, route, contract, interval, int(words.get("n") or 0), every_ms)
        return None

    # ---- trades ------------------------------------------------------------------------------------------------

    def _aggregates(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        contract = _of(stream)
        units = Units.of(contract)
        found = self._tape.aggregates(contract, after_ms - 100, until_ms + 1)
        sent = found.at_ms // 100 * 100 + 100
        found = found.take((sent > after_ms) & (sent <= until_ms))
        for row in rows.aggregates(found, units):
            at_ms = row["T"] // 100 * 100 + 100
            head = {"e": "aggTrade", "E": at_ms + skew_ms, "s": contract.symbol}
            yield Sent(at_ms, _ENCODE(head | row | {"st": _st(contract)}))

    def _trades(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> list[Sent]:
        contract = _of(stream)
        units = Units.of(contract)
        found = self._tape.aggregates(contract, after_ms - 103, until_ms - 2)
        fills = self._tape.fills(found, contract)
        facts = [
            (trade_id, at_ms, decimal(price, units.price), decimal(quantity, units.quantity), "MARKET", maker)
            for trade_id, at_ms, price, quantity, maker in zip(
                fills.trade_id.tolist(), fills.at_ms.tolist(), fills.price.tolist(), fills.quantity.tolist(),
                fills.buyer_is_maker.tolist(), strict=True,
            )
        ]  # fmt: skip
        burned = self._tape.burned(found)
        for trade_id, at_ms, insurance in zip(
            burned.trade_id.tolist(), burned.at_ms.tolist(), burned.insurance.tolist(), strict=True
        ):
            price = decimal(contract.base_price // contract.tick * contract.tick, units.price)
            if insurance:
                facts.append((trade_id, at_ms, price, decimal(1, units.quantity), "INSURANCE_FUND", True))
            else:
                facts.append((trade_id, at_ms, "0", "0", "NA", True))
        facts.sort()
        return [
            Sent(at_ms + 3, _ENCODE({
                "e": "trade", "E": at_ms + 3 + skew_ms, "T": at_ms, "s": contract.symbol, "t": trade_id, "p": price,
                "q": quantity, "X": kind, "m": maker, "st": _st(contract),
            }))
            for trade_id, at_ms, price, quantity, kind, maker in facts
            if after_ms < at_ms + 3 <= until_ms
        ]  # fmt: skip

    def _liquidations(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        """At most one per symbol and second: the first forced order of it."""
        for contract in self._contracts(stream):
            units = Units.of(contract)
            found = self._tape.aggregates(contract, after_ms // SECOND_MS * SECOND_MS - SECOND_MS, until_ms + 1)
            forced = found.take(field(found.chance, 57, 7) == 0)
            _, first = np.unique(forced.at_ms // SECOND_MS, return_index=True)
            for row in rows.aggregates(forced.take(first), units):
                at_ms = row["T"] + 10
                if after_ms < at_ms <= until_ms:
                    side = "SELL" if row["m"] else "BUY"
                    order = {
                        "s": contract.symbol, "S": side, "o": "LIMIT", "f": "IOC", "q": row["q"], "p": row["p"],
                        "ap": row["p"], "X": "FILLED", "l": row["q"], "z": row["q"], "T": row["T"],
                    }  # fmt: skip
                    told = {"e": "forceOrder", "E": at_ms + skew_ms}
                    if stream.contract is None:
                        told, order = told | {"st": _st(contract)}, order | {"ps": contract.pair}
                    yield Sent(at_ms, _ENCODE(told | {"o": order}))

    # ---- candles -----------------------------------------------------------------------------------------------

    def _klines(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        """An update 250 ms after the trades it tells of, and one closing event a little after the end."""
        contract, interval = _of(stream), stream.interval
        for at_ms, moment_ms in self._kline_moments(contract, interval, after_ms, until_ms):
            open_ms = int(opens_of(np.array([moment_ms]), interval)[0])
            found = self._tape.candles(contract, interval, open_ms, open_ms + 1, moment_ms)
            for row in found.tolist():
                candle = _candle(contract, interval, row, closed=at_ms > moment_ms + 1)
                if stream.kind == "continuousKline":
                    head = {
                        "e": "continuous_kline",
                        "E": at_ms + skew_ms,
                        "ps": contract.pair,
                        "ct": contract.contract_type,
                    }
                    yield Sent(at_ms, _ENCODE(head | {"k": candle}))
                else:
                    candle = {"t": candle.pop("t"), "T": candle.pop("T"), "s": contract.symbol, **candle}
                    head = {"e": "kline", "E": at_ms + skew_ms, "s": contract.symbol}
                    yield Sent(at_ms, _ENCODE(head | {"k": candle}))

    def _kline_moments(self, contract: Contract, interval: str, after_ms: int, until_ms: int) -> list[tuple[int, int]]:
        """(when sent, as of when): as of the last millisecond before, or of the candle."""
        trades = self._tape.aggregates(contract, after_ms - _UPDATE_MS, until_ms + 1)
        moments: list[tuple[int, int]] = []
        sent = np.unique(trades.at_ms // _UPDATE_MS * _UPDATE_MS + _UPDATE_MS)
        sent = sent[(sent > after_ms) & (sent <= until_ms)]
        same = opens_of(sent - 1, interval) == opens_of(sent, interval)  # else the closing event tells it
        moments.extend((at_ms, at_ms - 1) for at_ms in sent[same].tolist())
        end_ms = int(opens_of(np.array([until_ms]), interval)[0])
        ends = []
        while end_ms > after_ms - _CLOSE_LATE_MS - 2 and end_ms > contract.onboard_ms:
            ends.append(end_ms)
            end_ms = int(opens_of(np.array([end_ms - 1]), interval)[0])
        key = key_of(self._quotes.seed, contract.symbol, interval, "close")
        for end_ms in ends:
            at_ms = end_ms + 2 + one(key, end_ms) % _CLOSE_LATE_MS
            if after_ms < at_ms <= until_ms and end_ms <= contract.delivery_ms:
                moments.append((at_ms, end_ms - 1))
        return sorted(moments)

    # ---- prices and statistics ---------------------------------------------------------------------------------

    def _marks(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        moments = _grid(after_ms, until_ms, stream.every_ms)
        if len(moments) == 0:
            return
        contracts = [one for one in self._contracts(stream) if one.onboard_ms <= moments[0] < one.delivery_ms]
        table = [self._mark_rows(contract, moments, skew_ms) for contract in contracts]
        for at, at_ms in enumerate(moments.tolist()):
            told = [column[at] for column in table]
            if stream.contract is not None:
                yield from (Sent(at_ms, _ENCODE(row)) for row in told)
            else:
                apart = [row for row, one in zip(told, contracts, strict=True) if one.is_tradfi]
                together = [row for row, one in zip(told, contracts, strict=True) if not one.is_tradfi]
                yield from (Sent(at_ms, _ENCODE(part)) for part in (together, apart) if part)

    def _mark_rows(self, contract: Contract, moments: Index, skew_ms: int) -> list[dict[str, Any]]:
        marks = path.sampled(self._quotes.seed, contract, "mark", moments).tolist()
        indexes = path.sampled(self._quotes.seed, contract, "index", moments).tolist()
        told = []
        for at_ms, mark, index in zip(moments.tolist(), marks, indexes, strict=True):
            slot_ms = next_settlement(contract, at_ms)
            rate = path.funding_estimate(self._quotes.seed, contract, slot_ms, at_ms)
            told.append({
                "e": "markPriceUpdate", "E": at_ms + skew_ms, "s": contract.symbol, "p": decimal(mark, 8),
                "ap": decimal(mark, 8), "P": decimal(index, 8), "i": decimal(index, 8), "r": decimal(rate, 8),
                "T": slot_ms, "st": _st(contract),
            })  # fmt: skip
        return told

    def _tickers(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        mini = stream.kind.startswith("mini")
        for at_ms in _grid(after_ms, until_ms, stream.every_ms).tolist():
            told = []
            for contract in self._contracts(stream):
                before_ms = at_ms - stream.every_ms
                if contract.status(at_ms) != "TRADING":
                    continue
                if stream.contract is None and not len(self._tape.aggregates(contract, before_ms, at_ms)):
                    continue
                day = self._quotes.day(contract, at_ms - 1)
                told.append((_mini_ticker if mini else _ticker)(contract, day, at_ms + skew_ms))
            if stream.contract is None:
                yield from [Sent(at_ms, _ENCODE(told))] if told else []
            else:
                yield from (Sent(at_ms, _ENCODE(row)) for row in told)

    def _composition(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        contract, every = _of(stream), self._tape.contracts.values()
        if contract.underlying != standing.INDEX:
            return
        base, made_of = standing.base_of(contract), standing.parts(contract, every)
        for at_ms in _grid(after_ms, until_ms, stream.every_ms).tolist():
            price = decimal(self._quotes.mark(contract, "index", at_ms), 8)
            yield Sent(at_ms, _ENCODE({
                "e": "compositeIndex", "E": at_ms + skew_ms, "s": contract.symbol, "p": price, "C": "quoteAsset",
                "c": [
                    {"b": base, "q": one.asset, "w": decimal(one.quantity, 8), "W": decimal(one.weight, 8), "i": price}
                    for one in made_of
                ],
                "st": _st(contract),
            }))  # fmt: skip

    def _sessions(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        for at_ms in _grid(after_ms, until_ms, stream.every_ms).tolist():
            for market in standing.markets(self._tape.contracts.values()):
                day_ms = at_ms // DAY_MS * DAY_MS
                yield Sent(at_ms, _ENCODE({
                    "e": f"{market.capitalize()}Update", "E": at_ms + skew_ms, "t": day_ms, "T": day_ms + DAY_MS,
                    "S": "REGULAR",
                }))  # fmt: skip

    def _contract_info(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        for contract in self._tape.contracts.values():
            for at_ms in (contract.onboard_ms, contract.delivery_ms):
                if after_ms < at_ms <= until_ms:
                    yield Sent(at_ms, _ENCODE({
                        "e": "contractInfo", "E": at_ms + skew_ms, "s": contract.symbol, "ps": contract.pair,
                        "ct": contract.contract_type, "dt": contract.delivery_ms, "ot": contract.onboard_ms,
                        "cs": contract.status(at_ms), "st": _st(contract),
                    }))  # fmt: skip

    # ---- books -------------------------------------------------------------------------------------------------

    def _diffs(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        contract, stride = _of(stream), stream.every_ms // 50
        units = Units.of(contract)
        for step in self._steps(contract, after_ms, until_ms, stride):
            change = self._books.change(contract, step - stride, step)
            told = _depth(contract, change.at_ms, skew_ms)
            told |= {"U": change.first_id, "u": change.final_id, "pu": change.previous_id}
            told |= {"b": rows.levels(change.bids, units), "a": rows.levels(change.asks, units)}
            yield Sent(change.at_ms + 3, _ENCODE(told))

    def _partial(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        contract, stride = _of(stream), stream.every_ms // 50
        units = Units.of(contract)
        for step in self._steps(contract, after_ms, until_ms, stride):
            book = self._books.book(contract, step, stream.levels)
            previous = self._books.update_id(contract, step - stride)
            told = _depth(contract, book.at_ms, skew_ms) | {"U": previous + 1, "u": book.update_id, "pu": previous}
            told |= {"b": rows.levels(book.bids, units), "a": rows.levels(book.asks, units)}
            yield Sent(book.at_ms + 3, _ENCODE(told))

    def _best(self, stream: Stream, after_ms: int, until_ms: int, skew_ms: int) -> Iterator[Sent]:
        for contract in self._contracts(stream):
            if stream.contract is None:
                slow = stream.every_ms // 50
                steps = self._steps(contract, after_ms, until_ms, slow)
                found = [self._books.book(contract, step, 1) for step in steps]
            else:
                steps = self._steps(contract, after_ms, until_ms, 1)
                found = self._books.best(contract, steps[0], steps[-1]) if steps else []
            yield from (Sent(book.at_ms + 1, _best_price(contract, book, skew_ms)) for book in found)

    def _steps(self, contract: Contract, after_ms: int, until_ms: int, stride: int) -> Sequence[int]:
        """Steps whose events fall into (after_ms, until_ms], every stride of them, while the contract trades."""
        length_ms = self._books.step_ms * stride
        late_ms = 3 if stride > 1 else 1
        first = max(after_ms - late_ms, contract.onboard_ms) // length_ms + 1
        last = min(until_ms - late_ms, contract.delivery_ms) // length_ms
        return range(first * stride, last * stride + 1, stride)

    def _contracts(self, stream: Stream) -> Sequence[Contract]:
        return [stream.contract] if stream.contract is not None else list(self._tape.contracts.values())


_Make = Callable[[Streams, Stream, int, int, int], Any]
_KINDS: Final[dict[str, _Make]] = {
    "aggTrade": Streams._aggregates, "trade": Streams._trades, "forceOrder": Streams._liquidations,
    "kline": Streams._klines, "continuousKline": Streams._klines, "markPrice": Streams._marks,
    "ticker": Streams._tickers, "miniTicker": Streams._tickers, "contractInfo": Streams._contract_info,
    "compositeIndex": Streams._composition, "tradingSession": Streams._sessions,
    "depth": Streams._diffs, "partial": Streams._partial, "bookTicker": Streams._best,
    "tickers": Streams._tickers, "miniTickers": Streams._tickers, "bookTickers": Streams._best, "marks": Streams._marks,
}  # fmt: skip
_EVERY_MS: Final = {
    "markPrice": 3_000, "marks": 3_000, "ticker": 2_000, "tickers": 1_000, "miniTicker": 2_000, "miniTickers": 1_000,
    "depth": 250, "partial": 250, "bookTickers": 5_000, "compositeIndex": 1_000, "tradingSession": 1_000,
}  # fmt: skip


def _names() -> Iterator[tuple[re.Pattern[str], str, str]]:
    symbol = r"(?P<s>[^@!/]+)"
    speed = r"(?:@(?P<speed>100|500)ms)?"
    for text, kind, route in (
        (rf"{symbol}@trade", "trade", "public"), (rf"{symbol}@bookTicker", "bookTicker", "public"),
        (r"!bookTicker", "bookTickers", "public"), (rf"{symbol}@depth{speed}", "depth", "public"),
        (rf"{symbol}@depth(?P<n>5|10|20){speed}", "partial", "public"),
        (rf"{symbol}@rpiDepth@(?P<speed>500)ms", "depth", "public"), (rf"{symbol}@aggTrade", "aggTrade", "market"),
        (rf"{symbol}@kline_(?P<i>\w+)", "kline", "market"),
        (rf"{symbol}_perpetual@continuousKline_(?P<i>\w+)", "continuousKline", "market"),
        (rf"{symbol}@markPrice(?:@(?P<seconds>1)s)?", "markPrice", "market"),
        (r"!markPrice@arr(?:@(?P<seconds>1)s)?", "marks", "market"), (rf"{symbol}@ticker", "ticker", "market"),
        (r"!ticker@arr", "tickers", "market"), (rf"{symbol}@miniTicker", "miniTicker", "market"),
        (r"!miniTicker@arr", "miniTickers", "market"), (rf"{symbol}@forceOrder", "forceOrder", "market"),
        (r"!forceOrder@arr", "forceOrder", "market"), (r"!contractInfo", "contractInfo", "market"),
        (rf"{symbol}@compositeIndex", "compositeIndex", "market"), (r"tradingSession", "tradingSession", "market"),
    ):  # fmt: skip
        yield re.compile(text), kind, route


_NAMES: Final = tuple(_names())


def _lower(symbol: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in symbol)


def _of(stream: Stream) -> Contract:
    assert stream.contract is not None, "a stream of one symbol"
    return stream.contract


def _st(contract: Contract) -> int:
    return 1 if contract.market == "um" else 2


def _grid(after_ms: int, until_ms: int, every_ms: int) -> Index:
    return np.arange(after_ms // every_ms + 1, until_ms // every_ms + 1) * every_ms


def _candle(contract: Contract, interval: str, row: list[int], *, closed: bool) -> dict[str, Any]:
    units = Units.of(contract)
    close_ms = int(next_opens(np.array([row[bars.OPEN_MS]]), interval)[0]) - 1
    return {
        "t": row[bars.OPEN_MS], "T": close_ms, "i": interval, "f": row[bars.FIRST_ID], "L": row[bars.LAST_ID],
        "o": decimal(row[bars.OPEN], units.price), "c": decimal(row[bars.CLOSE], units.price),
        "h": decimal(row[bars.HIGH], units.price), "l": decimal(row[bars.LOW], units.price),
        "v": decimal(row[bars.VOLUME], units.quantity), "n": row[bars.COUNT], "x": closed,
        "q": decimal(row[bars.QUOTE], units.quote), "V": decimal(row[bars.BUY], units.quantity),
        "Q": decimal(row[bars.BUY_QUOTE], units.quote), "B": "0",
    }  # fmt: skip


def _ticker(contract: Contract, day: dict[str, Any], shown_ms: int) -> dict[str, Any]:
    return {
        "e": "24hrTicker", "E": shown_ms, "s": contract.symbol, "ps": contract.pair, "p": day["priceChange"],
        "P": day["priceChangePercent"], "w": day["weightedAvgPrice"], "c": day["lastPrice"], "Q": day["lastQty"],
        "o": day["openPrice"], "h": day["highPrice"], "l": day["lowPrice"], "v": day["volume"], "q": day["quoteVolume"],
        "O": day["openTime"], "C": day["closeTime"], "F": day["firstId"], "L": day["lastId"], "n": day["count"],
        "st": _st(contract),
    }  # fmt: skip


def _mini_ticker(contract: Contract, day: dict[str, Any], shown_ms: int) -> dict[str, Any]:
    return {
        "e": "24hrMiniTicker", "E": shown_ms, "s": contract.symbol, "ps": contract.pair, "c": day["lastPrice"],
        "o": day["openPrice"], "h": day["highPrice"], "l": day["lowPrice"], "v": day["volume"], "q": day["quoteVolume"],
        "st": _st(contract),
    }  # fmt: skip


def _depth(contract: Contract, at_ms: int, skew_ms: int) -> dict[str, Any]:
    return {
        "e": "depthUpdate", "E": at_ms + 3 + skew_ms, "T": at_ms, "s": contract.symbol, "ps": contract.pair,
        "st": _st(contract),
    }  # fmt: skip


def _best_price(contract: Contract, book: Book, skew_ms: int) -> bytes:
    units = Units.of(contract)
    [bid], [ask] = rows.levels(book.bids, units), rows.levels(book.asks, units)
    return _ENCODE({
        "e": "bookTicker", "u": book.update_id, "s": contract.symbol, "ps": contract.pair, "b": bid[0], "B": bid[1],
        "a": ask[0], "A": ask[1], "T": book.at_ms, "E": book.at_ms + 1 + skew_ms, "st": _st(contract),
    })  # fmt: skip
