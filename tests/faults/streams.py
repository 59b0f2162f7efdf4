"""Streams made from recordings, and synthetic ones: as Lines, so that tests/truth.py knows what has to be held."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tests.truth import Line, lines_of

BASE_MS = 1_700_000_000_000 - 1_700_000_000_000 % 60_000
HOUR_MS = 3_600_000
_TIMES = ("E", "T")
_IDS = ("t", "a", "f", "l", "u", "U", "pu")


def payloads(lines: Iterable[Line]) -> list[bytes]:
    """What is published of them."""
    return [line.message for line in lines]


def without_candles(lines: Iterable[Line]) -> list[Line]:
    """The lines of which each is one row: an open candle is none."""
    return [line for line in lines if line.data.get("e") != "kline"]


def line_of(data: dict[str, Any], stream: str) -> Line:
    """A line as if it had been recorded when it happened."""
    message = json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()
    return Line(data["E"] * 1_000_000, message, data)


def later(lines: Iterable[Line], hours: int) -> list[Line]:
    """The same market so many hours later: every time is, and every id goes on from there."""
    return [_later(line, hours) for line in lines]


def _later(line: Line, hours: int) -> Line:
    data = dict(line.data)
    assert data["e"] != "kline", "a candle's times lie deeper"
    for name in _TIMES:
        if name in data:
            data[name] += hours * HOUR_MS
    for name in _IDS:
        if isinstance(data.get(name), int):
            data[name] += hours * 1_000_000_000
    return line_of(data, json.loads(line.message)["stream"])


def trade(symbol: str, number: int, **more: object) -> Line:
    """The trade of that number: one each 10 ms, prices of two decimals."""
    at_ms = BASE_MS + 10 * number
    data = {"e": "trade", "E": at_ms, "T": at_ms, "s": symbol, "t": number, "p": f"{100 + number % 977}.25", "q": "0.5"}
    return line_of({**data, "X": "MARKET", "m": number % 2 == 0, **more}, f"{symbol.lower()}@trade")


def candle(symbol: str, minute: int) -> Line:
    """A closed candle of one minute."""
    open_ms = BASE_MS + 60_000 * minute
    prices = {"o": "10.1", "h": f"{11 + minute}.5", "l": "9.75", "c": "10.2"}
    rest = {"v": "12", "n": 3, "x": True, "q": "120.5", "V": "6", "Q": "60.25", "B": "0", "f": 1, "L": 3}
    k = {"t": open_ms, "T": open_ms + 59_999, "s": symbol, "i": "1m", **prices, **rest}
    return line_of({"e": "kline", "E": open_ms + 60_007, "s": symbol, "k": k}, f"{symbol.lower()}@kline_1m")


def symbols(count: int) -> list[str]:
    """So many names."""
    return [f"S{number:05}USDT" for number in range(count)]


def many_symbols(count: int, *, trades: int, candles: int) -> Iterator[Line]:
    """So many trades and closed candles of each of so many symbols, interleaved as a market's are."""
    names = symbols(count)
    for number in range(trades):
        for name in names:
            yield trade(name, number)
            if number < candles:
                yield candle(name, number)


def recorded(*paths: Any) -> list[Line]:
    """The lines of these captures."""
    return list(lines_of(*paths))
