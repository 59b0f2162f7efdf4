"""What the recordings say, read with nothing of ours: plain json, text kept as text.

A Line is a recorded message; rows_of() says what has to be held once a service has seen such lines, in the API's own
words, one JSON text per row.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

Data = Mapping[str, Any]
USDM = (
    "2021-04-05_sand-chr-neo-ctk-bat", "2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt",
    "2023-04-05_btcusdt_part1", "2024-08-08_btcusdt", "2024-08-08_ethusdt",
)  # fmt: skip
COINM = ("2021-07-22_ten-symbols", "2024-08-08_btcusd_perp")
SPOT = ("2021-04-04_dot-btc-eth", "2021-10-12_nkn-blz-lrc-rune", "2024-08-08_btcusdt")
MARKETS = {"um": ("binance_futures", USDM), "cm": ("binance_coinm", COINM), "spot": ("binance_spot", SPOT)}
STREAMS = {  # the data README's names of streams, and what we call what they carry
    "trade": "trade", "aggTrade": "agg_trade", "bookTicker": "book_ticker", "markPrice@1s": "mark_price",
    "depth@100ms": "depth_update", "depth@0ms": "depth_update", "kline_1m": "candle",
}  # fmt: skip


class Line(NamedTuple):
    """One recorded message: when the recorder had it, its bytes (a combined frame), and its data, parsed."""

    recv_ns: int
    message: bytes
    data: Data

    @property
    def bare(self) -> bytes:
        """The event alone, byte for byte."""
        return self.message[self.message.index(b'"data":') + 7 : -1]

    @property
    def enveloped(self) -> bytes:
        """As the publisher sends it, the time it was received in its own notation."""
        sent = datetime.fromtimestamp(self.recv_ns // 1_000 / 1e6, UTC).replace(tzinfo=None).isoformat()
        tail = f',"timestamp":"{sent}Z","message_id":"6f1c2e0a-53a4-4c0e-9b1f-0b2c7c5a9f10","source":"binance-websocket","version":"1.0"}}'
        return self.message[:-1] + tail.encode()


def path_of(recordings: Path, market: str, name: str) -> Path:
    """The file of a capture."""
    return recordings / MARKETS[market][0] / "ws" / f"{name}.jsonl.gz"


def paths_of(recordings: Path, market: str, names: Iterable[str] = ()) -> list[Path]:
    """The files of these captures, or of all of a market."""
    return [path_of(recordings, market, name) for name in names or MARKETS[market][1]]


def lines_of(*paths: Path) -> Iterator[Line]:
    """The messages of these captures, in recorded order."""
    for path in paths:
        with gzip.open(path) as file:
            for text in file:
                line = text.rstrip(b"\n")
                at = line.index(b'"msg":')
                message = line[at + 6 : -1]
                yield Line(int(line[line.index(b":") + 1 : at - 1]), message, json.loads(message)["data"])


def rows_of(lines: Iterable[Line], market: str = "um") -> dict[str, list[str]]:
    """By series id, the rows in key order; of messages with one key the first counts."""
    held: dict[str, dict[int, str]] = {}
    for line in lines:
        found = _READ[line.data.get("e", "")](line.data, line.recv_ns)
        if found is not None:
            series, key, row = found
            held.setdefault(f"{market}.{series}", {}).setdefault(key, json.dumps(row, separators=(",", ":")))
    return {series: [rows[key] for key in sorted(rows)] for series, rows in held.items()}


def parsed(rows: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as the JSON API gives them."""
    return [json.loads(row) for row in rows]


@cache
def iso(ms: int) -> str:
    """2023-04-05T00:00:00.010Z"""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return f"{at.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


# ---- message by message: series (without market), key, row --------------------------------------------------------

_Found = tuple[str, int, dict[str, Any]] | None


def _trade(d: Data, _: int) -> _Found:
    row = {"timestamp": iso(d["T"]), "trade_id": d["t"], "price": d["p"], "quantity": d["q"]}
    return f"trade.{d['s']}", d["t"], row | {"side": "sell" if d["m"] else "buy", "kind": d.get("X")}


def _agg_trade(d: Data, _: int) -> _Found:
    row = {
        "timestamp": iso(d["T"]),
        "agg_id": d["a"],
        "price": d["p"],
        "quantity": d["q"],
        "plain_quantity": d.get("nq"),
    }
    row |= {"first_trade_id": d["f"], "last_trade_id": d["l"], "side": "sell" if d["m"] else "buy"}
    return f"agg_trade.{d['s']}", d["a"], row


def _candle(d: Data, _: int) -> _Found:
    k = d["k"]
    if not k["x"]:
        return None
    row = {"timestamp": iso(k["t"]), "open": k["o"], "high": k["h"], "low": k["l"], "close": k["c"], "volume": k["v"]}
    row |= {
        "quote_volume": k["q"],
        "trades_count": k["n"],
        "taker_buy_volume": k["V"],
        "taker_buy_quote_volume": k["Q"],
    }
    return f"candle.{d['s']}.{k['i']}", k["t"], row


def _depth_update(d: Data, _: int) -> _Found:
    row: dict[str, Any] = {"timestamp": iso(d["E"]), "update_id": d["u"], "first_update_id": d["U"]}
    row |= {"previous_update_id": d.get("pu"), "bids": _levels(d["b"]), "asks": _levels(d["a"])}
    return f"depth_update.{d['s']}", d["u"], row


def _levels(levels: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    return [{"price": price, "quantity": quantity} for price, quantity in levels]


def _book_ticker(d: Data, recv_ns: int) -> _Found:
    """Spot names no time: there it is the publisher's, which is the recorder's in what we publish."""
    at, clock = (d["E"], "venue") if "E" in d else (recv_ns // 1_000_000, "publisher")
    row = {"timestamp": iso(at), "update_id": d["u"], "bid": d["b"], "bid_quantity": d["B"]}
    return f"book_ticker.{d['s']}", d["u"], row | {"ask": d["a"], "ask_quantity": d["A"], "clock": clock}


def _mark_price(d: Data, _: int) -> _Found:
    row = {"timestamp": iso(d["E"]), "mark_price": d["p"], "mark_price_average": d.get("ap"), "index_price": d["i"]}
    row |= {"estimated_settle_price": d["P"], "funding_rate_estimate": d["r"], "next_funding_time": iso(d["T"])}
    return f"mark_price.{d['s']}", d["E"], row


_READ: dict[str, Callable[[Data, int], _Found]] = {
    "trade": _trade, "aggTrade": _agg_trade, "kline": _candle, "depthUpdate": _depth_update, "bookTicker": _book_ticker,
    "": _book_ticker, "markPriceUpdate": _mark_price,
}  # fmt: skip


# ---- the data README's own counts ----------------------------------------------------------------------------------


def readme_counts(recordings: Path, market: str, name: str) -> dict[str, int]:
    """Messages by dataset, as the table of the data README counts them (candles: open ones too)."""
    text = (recordings / "README.md").read_text(encoding="utf-8")
    section = text[text.index(f"`{MARKETS[market][0]}/ws/`", text.index("## 1.")) :]
    [line] = [line for line in section.split("\n### ")[0].splitlines() if line.startswith(f"| `{name}`")]
    cells = [cell.strip() for cell in line.split("|")]
    [by_stream] = [cell for cell in cells if re.match(r"(bookTicker|depth@\w+) [\d,]+,", cell)]
    counts: dict[str, int] = {}
    for stream, count in re.findall(r"([\w@]+) ([\d,]*\d)", by_stream):
        dataset = STREAMS[stream]
        counts[dataset] = counts.get(dataset, 0) + int(count.replace(",", ""))
    assert sum(counts.values()) == int(next(cell for cell in cells if re.fullmatch(r"[\d,]+", cell)).replace(",", ""))
    return counts
