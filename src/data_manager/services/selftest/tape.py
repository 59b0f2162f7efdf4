"""Tapes: messages as a bus would deliver them, each with the time it was received.

The generated market is small and plain, and consistent: ids without gaps, candles made of its trades, chained books, a
mark price every second. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from msgspec import Struct

from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import BadQuery
from data_manager.domain.events import Event, Outcome
from data_manager.domain.time import HOUR_MS, MINUTE_MS, SECOND_MS
from data_manager.services.replay import Recording

START_MS: Final = 1_704_067_200_000  # 2024-01-01T00:00:00Z
_TAIL_MS: Final = 3 * SECOND_MS  # so long after the last minute the tape goes on: its candles are told by then
_PRICES: Final = {"BTCUSDT": 42_000, "ETHUSDT": 2_300}

Decode = Callable[[bytes, int], Sequence[Outcome]]


class Message(Struct, frozen=True):
    """One message as it was received."""

    at_ms: int
    payload: bytes


class Told(Struct, frozen=True):
    """The one event of a message: whose it is, its key and its time."""

    at: int  # place of the message on the tape
    series: Series
    dataset: Dataset
    key: int
    time_ms: int
    closed: bool  # not live state
    timed: bool  # the venue names the time; otherwise it is the moment of arrival


def generated(seed: int, minutes: int) -> list[Message]:
    """A tape of a small market over so many minutes, in order of time."""
    random = Random(f"tape {seed}")
    found = [one for symbol, price in _PRICES.items() for one in _market(symbol, price, minutes, random)]
    return sorted(found, key=lambda one: one.at_ms)


def recorded(files: Sequence[Path]) -> list[Message]:
    """The messages of recordings, in recorded order. Raises BadQuery for one that does not say when it was received."""
    found: list[Message] = []
    for file in files:
        with Recording(file) as recording:
            for line in recording:
                if line.recv_ns is None:
                    raise BadQuery("recording", file.name, "must say when each message was received")
                payload = line.envelope or _framed(line.stream, line.data)
                found.append(Message(line.recv_ns // 1_000_000, payload))
    return sorted(found, key=lambda one: one.at_ms)


def told(
    messages: Sequence[Message], decode: Decode, dataset_of: Callable[[Event], Dataset], market: str
) -> list[Told]:
    """The events of messages that hold exactly one, of those told once: what comes again is not lost with a message."""
    found: list[Told] = []
    for at, message in enumerate(messages):
        outcomes = decode(message.payload, message.at_ms)
        if len(outcomes) == 1 and isinstance(outcomes[0], Event):
            event: Any = outcomes[0]
            dataset = dataset_of(event)
            series = Series(market, dataset.name, event.symbol, getattr(event, "interval", None))
            closed = dataset.live is None or bool(getattr(event, dataset.live))
            key, time_ms = getattr(event, dataset.key[0]), getattr(event, dataset.time)
            timed = getattr(event, "clock", "venue") == "venue"
            found.append(Told(at, series, dataset, key, time_ms, closed, timed))
    times = Counter((one.series, one.key) for one in found if one.closed)
    return [one for one in found if not one.closed or times[one.series, one.key] == 1]


def _framed(stream: str | None, data: bytes) -> bytes:
    return data if stream is None else b'{"stream":"%b","data":%b}' % (stream.encode(), data)


# ── The small market ─────────────────────────────────────────────────────────────────────────────────────────────────


def _market(symbol: str, base: int, minutes: int, random: Random) -> Iterator[Message]:
    end_ms = START_MS + minutes * MINUTE_MS + _TAIL_MS
    trades = list(_trades(base, end_ms, random))
    yield from (_sent(symbol, "trade", one[0] + 3, _trade(symbol, *one)) for one in trades)
    yield from (_sent(symbol, "aggTrade", one[0] + 5, _aggregate(symbol, *one)) for one in trades)
    yield from _candles(symbol, trades, minutes)
    yield from _books(symbol, base, end_ms, random)


def _trades(base: int, end_ms: int, random: Random) -> Iterator[tuple[int, int, int, int, bool]]:
    """(time, id, price in hundredths, quantity in thousandths, buyer is maker): about one a second."""
    at_ms, trade_id, price = START_MS, base * 1_000, base * 100
    while True:
        at_ms += random.randint(50, 1_900)
        if at_ms >= end_ms:
            return
        trade_id += 1
        price += random.randint(-25, 25)
        yield at_ms, trade_id, price, random.randint(1, 4_000), random.random() < 0.5


def _candles(symbol: str, trades: Sequence[tuple[int, int, int, int, bool]], minutes: int) -> Iterator[Message]:
    """The open candle every ten seconds, and the closed one a little after its end."""
    for minute in range(minutes):
        open_ms = START_MS + minute * MINUTE_MS
        for end_ms in range(open_ms + 10 * SECOND_MS, open_ms + MINUTE_MS + 1, 10 * SECOND_MS):
            inside = [one for one in trades if open_ms <= one[0] < end_ms]
            closed = end_ms == open_ms + MINUTE_MS
            if inside:
                at_ms = end_ms + 150 if closed else end_ms
                yield _sent(symbol, "kline_1m", at_ms, _kline(symbol, open_ms, inside, at_ms, closed))


def _books(symbol: str, base: int, end_ms: int, random: Random) -> Iterator[Message]:
    """Changes of the book and its best prices twice a second, whole books and mark prices every second."""
    update_id, price = base * 10_000, base * 100
    for at_ms in range(START_MS + 100, end_ms, SECOND_MS // 2):
        before, update_id = update_id, update_id + random.randint(1, 40)
        price += random.randint(-10, 10)
        bids, asks = _side(price - 10, -10, random), _side(price + 10, 10, random)
        change = {"e": "depthUpdate", "E": at_ms, "T": at_ms - 2, "s": symbol, "U": before + 1, "u": update_id}
        yield _sent(symbol, "depth@500ms", at_ms, {**change, "pu": before, "b": bids[:3], "a": asks[:3]})
        best = {"b": bids[0][0], "B": bids[0][1], "a": asks[0][0], "A": asks[0][1]}
        ticker = {"e": "bookTicker", "u": update_id, "s": symbol, **best, "T": at_ms - 1, "E": at_ms}
        yield _sent(symbol, "bookTicker", at_ms + 1, ticker)
        if at_ms % SECOND_MS < SECOND_MS // 2:
            book = {"lastUpdateId": update_id, "bids": bids, "asks": asks}
            yield _sent(symbol, "depth5@1000ms", at_ms + 2, book)
            mark = {"e": "markPriceUpdate", "E": at_ms // SECOND_MS * SECOND_MS, "s": symbol, "p": _hundredths(price)}
            settle = {
                "P": _hundredths(price),
                "i": _hundredths(price),
                "r": "0.00010000",
                "T": START_MS + 8 * HOUR_MS,
            }
            yield _sent(symbol, "markPrice@1s", at_ms + 3, {**mark, **settle})


def _side(price: int, step: int, random: Random) -> list[list[str]]:
    return [[_hundredths(price + level * step), f"{random.randint(1, 9_999) / 1_000:.3f}"] for level in range(5)]


def _trade(symbol: str, at_ms: int, trade_id: int, price: int, quantity: int, maker: bool) -> dict[str, Any]:
    what = {"t": trade_id, "p": _hundredths(price), "q": f"{quantity / 1_000:.3f}", "X": "MARKET", "m": maker}
    return {"e": "trade", "E": at_ms + 2, "T": at_ms, "s": symbol, **what}


def _aggregate(symbol: str, at_ms: int, trade_id: int, price: int, quantity: int, maker: bool) -> dict[str, Any]:
    what = {"p": _hundredths(price), "q": f"{quantity / 1_000:.3f}", "f": trade_id, "l": trade_id, "T": at_ms}
    return {"e": "aggTrade", "E": at_ms + 4, "s": symbol, "a": trade_id - 5_000, **what, "m": maker}


def _kline(
    symbol: str, open_ms: int, inside: Sequence[tuple[int, int, int, int, bool]], at_ms: int, closed: bool
) -> dict[str, Any]:
    prices = [one[2] for one in inside]
    quote = sum(one[2] * one[3] for one in inside)
    bought = [one for one in inside if not one[4]]
    candle = {
        "t": open_ms, "T": open_ms + MINUTE_MS - 1, "s": symbol, "i": "1m", "f": inside[0][1], "L": inside[-1][1],
        "o": _hundredths(prices[0]), "c": _hundredths(prices[-1]), "h": _hundredths(max(prices)),
        "l": _hundredths(min(prices)), "v": f"{sum(one[3] for one in inside) / 1_000:.3f}", "n": len(inside),
        "x": closed, "q": f"{quote // 100_000}.{quote % 100_000:05d}",
        "V": f"{sum(one[3] for one in bought) / 1_000:.3f}",
        "Q": _exact(sum(one[2] * one[3] for one in bought)), "B": "0",
    }  # fmt: skip
    return {"e": "kline", "E": at_ms, "s": symbol, "k": candle}


def _exact(quote: int) -> str:
    return f"{quote // 100_000}.{quote % 100_000:05d}"


def _hundredths(price: int) -> str:
    return f"{price // 100}.{price % 100:02d}"


def _sent(symbol: str, stream: str, at_ms: int, data: dict[str, Any]) -> Message:
    body = json.dumps({"stream": f"{symbol.lower()}@{stream}", "data": data}, separators=(",", ":"))
    return Message(at_ms, body.encode())
