"""The archives: a zip for every day and month with its checksum beside it, as data.binance.vision lays them out.

    /data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-03-04.zip[.CHECKSUM]
    /data/futures/um/monthly/trades/BTCUSDT/BTCUSDT-trades-2026-02.zip[.CHECKSUM]

A day is published the next morning at 08:40, a few minutes more or less; a month on the first Monday after it at 10:00.
There are no days of funding, and no months of metrics (open interest and ratios). Files of before 2022 have no header.
The same file is the same bytes each time, unless a fault makes it another one.
"""

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from msgspec import Struct

from data_manager.domain.checks.bars import next_opens
from data_manager.domain.errors import BadQuery
from data_manager.domain.time import DAY_MS, INTERVALS_MS, MINUTE_MS, datetime_of, ms_of, next_open_ms, parse_time
from data_manager.simulator import bars, path
from data_manager.simulator.answers import Raw, decimal
from data_manager.simulator.clock import ExchangeClock
from data_manager.simulator.contracts import Contract, interval_ms, settlements
from data_manager.simulator.faults import Faults
from data_manager.simulator.market import Tape
from data_manager.simulator.noise import Index, key_of
from data_manager.simulator.quotes import Quotes
from data_manager.simulator.statistics import ANSWERS, opens_between
from data_manager.simulator.tape import Bounded, Mask

_ROOT: Final = "/data/futures/um/"
_PATH = re.compile(
    _ROOT + r"(?P<each>daily|monthly)/(?P<kind>\w+)/(?P<symbol>[^/]+)/(?:(?P<interval>\w+)/)?"
    r"(?P<name>(?P=symbol)-(?P<label>\w+)-(?P<date>\d{4}-\d{2}(?:-\d{2})?)\.zip)(?P<sum>\.CHECKSUM)?"
)
_KLINES: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume",
    "taker_buy_quote_volume", "ignore",
)  # fmt: skip
_AGG_TRADES: Final = (
    "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time", "is_buyer_maker",
)  # fmt: skip
_TRADES: Final = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker")
_FUNDING: Final = ("calc_time", "funding_interval_hours", "last_funding_rate")
_METRICS: Final = (
    "create_time", "symbol", "sum_open_interest", "sum_open_interest_value", "count_toptrader_long_short_ratio",
    "sum_toptrader_long_short_ratio", "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
)  # fmt: skip
_METRICS_SINCE_MS: Final = parse_time("2020-09-01")
_SAMPLED: Final = {"markPriceKlines": "mark", "indexPriceKlines": "index", "premiumIndexKlines": "premium"}
_DAILY_AT_MS: Final = (8 * 60 + 40) * MINUTE_MS
_MONTHLY_AT_MS: Final = 10 * 60 * MINUTE_MS
_HEADERS_SINCE: Final = {"klines": parse_time("2022-01-01"), "": parse_time("2022-08-11")}
_FOLDERS: Final = {"1M": "1mo"}
_SHAPES: Final = ("interleaved", "doubled", "header", "micro")
_TIMES: Final = ("open_time", "close_time", "transact_time", "time", "calc_time")
_KEPT_FILES: Final = 24
_ONLY: Final = {"fundingRate": True, "metrics": False}  # there are none of days, or of months

Columns = Sequence[pa.Array]


class File(Struct, frozen=True):
    """One zip of the archive."""

    path: str
    name: str
    kind: str
    contract: Contract
    interval: str
    start_ms: int
    end_ms: int
    daily: bool

    @property
    def header_since_ms(self) -> int:
        return _HEADERS_SINCE["klines" if "lines" in self.kind else ""]


class Archives:
    """All files of a tape. Building one takes seconds at worst: call get() off the event loop."""

    def __init__(self, tape: Tape, quotes: Quotes, seed: int, clock: ExchangeClock, faults: Faults) -> None:
        self._tape = tape
        self._quotes = quotes
        self._seed = seed
        self._clock = clock
        self._faults = faults
        self._kept: Bounded[bytes] = Bounded(_KEPT_FILES)

    def get(self, target: str) -> Raw:
        """The answer to one GET of a file or of a checksum."""
        if self._faults.out("archive"):
            return Raw(status=503, body=b"", media="application/xml")
        found = _PATH.fullmatch(target)
        file = self._file(found) if found else None
        if found is None or file is None or not self._published(file) or self._faults.files("absent", file.path):
            return absent(target)
        if self._faults.files("page", file.path):
            return Raw(body=b"<html><body>Please verify that you are human.</body></html>", media="text/html")
        content = self._content(file)
        digest = sha256(content).hexdigest()
        if found["sum"]:
            if self._faults.files("checksum", file.path):
                digest = sha256(digest.encode()).hexdigest()
            return Raw(body=f"{digest}  {file.name}\n".encode(), media="text/plain")
        headers = {"ETag": f'"{digest[:32]}"'}
        if self._faults.files("cut", file.path):
            content = content[: len(content) * 2 // 3]
        return Raw(body=content, headers=headers, media="application/zip")

    def published_ms(self, file: File) -> int:
        """When the file appears."""
        if file.daily:
            return file.end_ms + _DAILY_AT_MS + key_of(self._seed, file.path) % (5 * MINUTE_MS)
        after = datetime_of(file.end_ms)
        return ms_of(after + timedelta(days=-after.weekday() % 7)) + _MONTHLY_AT_MS

    def _published(self, file: File) -> bool:
        listed = file.contract.onboard_ms < file.end_ms and file.start_ms < file.contract.delivery_ms
        return listed and self._clock.now_ms() >= self.published_ms(file)

    def _file(self, found: re.Match[str]) -> File | None:
        """The file that the path names; None where there can be none."""
        kind, daily, label = found["kind"], found["each"] == "daily", found["label"]
        contract = self._tape.contracts.get(found["symbol"])
        interval = next((one for one in INTERVALS_MS if _FOLDERS.get(one, one) == found["interval"]), "")
        is_klines = kind == "klines" or kind in _SAMPLED
        named_rightly = label == (found["interval"] if is_klines else kind)
        known = is_klines == bool(interval) and (is_klines or kind in _COLUMNS)
        if contract is None or contract.market != "um" or not named_rightly or not known:
            return None
        if daily != (found["date"].count("-") == 2) or daily == _ONLY.get(kind):
            return None
        file = _dated(found, kind, contract, interval, daily=daily)
        return None if file is not None and kind == "metrics" and file.start_ms < _METRICS_SINCE_MS else file

    def _content(self, file: File) -> bytes:
        """The zip as it is now; kept by all that can change it."""
        shaped = tuple(kind for kind in _SHAPES if self._faults.files(kind, file.path))
        hidden = tuple(fault for fault in self._faults.of("missing", "altered") if "archive" in fault.where)
        return self._kept.get((file.path, shaped, hidden), lambda: self._zipped(file, shaped))

    def _zipped(self, file: File, shaped: Sequence[str]) -> bytes:
        names, table = _COLUMNS[file.kind](self, file)
        if "micro" in shaped:
            table = [_micro(column) if name in _TIMES else column for name, column in zip(names, table, strict=True)]
        if "doubled" in shaped:
            table = [column.take(pa.array(np.repeat(np.arange(len(column)), 2))) for column in table]
        if "interleaved" in shaped:
            table = [column.take(pa.array(_interleaved(len(column)))) for column in table]
        with_header = (file.start_ms >= file.header_since_ms) != ("header" in shaped)
        text = io.BytesIO()
        options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
        if with_header:
            text.write(",".join(names).encode() + b"\n")
        pa.csv.write_csv(pa.table(list(table), names=list(names)), text, options)
        packed = io.BytesIO()
        entry = zipfile.ZipInfo(file.name.removesuffix(".zip") + ".csv", date_time=(2026, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(packed, "w", compresslevel=1) as archive:
            archive.writestr(entry, text.getvalue())
        return packed.getvalue()

    # ---- rows --------------------------------------------------------------------------------------------------

    def _klines(self, file: File) -> tuple[Sequence[str], Columns]:
        contract, end_ms, now_ms = file.contract, file.end_ms, self.published_ms(file)
        if what := _SAMPLED.get(file.kind):
            found = self._tape.sampled_candles(contract, what, file.interval, file.start_ms, end_ms, now_ms)
        else:
            found = self._tape.candles(contract, file.interval, file.start_ms, end_ms, now_ms)
        found = self._faults.candles("archive", file.kind, contract.symbol, file.interval, found, file.path)
        price = 8 if file.kind in _SAMPLED else contract.price_precision
        digits = {
            bars.VOLUME: contract.quantity_precision, bars.BUY: contract.quantity_precision,
            bars.QUOTE: contract.price_precision + contract.quantity_precision,
            bars.BUY_QUOTE: contract.price_precision + contract.quantity_precision,
        }  # fmt: skip

        def column(at: int, scale: int | None = None) -> pa.Array:
            return _decimals(found[:, at], digits.get(at, 0) if scale is None else scale)

        closes = pa.array(next_opens(found[:, bars.OPEN_MS], file.interval) - 1)
        prices = [column(at, price) for at in (bars.OPEN, bars.HIGH, bars.LOW, bars.CLOSE)]
        return _KLINES, [
            pa.array(found[:, bars.OPEN_MS]), *prices, column(bars.VOLUME), closes, column(bars.QUOTE),
            pa.array(found[:, bars.COUNT]), column(bars.BUY), column(bars.BUY_QUOTE),
            pa.array(np.zeros(len(found), np.int64)),
        ]  # fmt: skip

    def _agg_trades(self, file: File) -> tuple[Sequence[str], Columns]:
        contract = file.contract
        found = self._tape.aggregates(contract, file.start_ms, file.end_ms)
        found = self._faults.aggregates("archive", contract.symbol, found, file.path)
        return _AGG_TRADES, [
            pa.array(found.agg_id), _short(found.price, contract.price_precision),
            _short(found.quantity, contract.quantity_precision), pa.array(found.first_id), pa.array(found.last_id),
            pa.array(found.at_ms), _words(found.buyer_is_maker),
        ]  # fmt: skip

    def _trades(self, file: File) -> tuple[Sequence[str], Columns]:
        contract = file.contract
        found = self._tape.fills(self._tape.aggregates(contract, file.start_ms, file.end_ms), contract)
        found = self._faults.fills("archive", contract.symbol, found, file.path)
        quote = contract.price_precision + contract.quantity_precision
        return _TRADES, [
            pa.array(found.trade_id), _short(found.price, contract.price_precision),
            _short(found.quantity, contract.quantity_precision), _short(found.price * found.quantity, quote),
            pa.array(found.at_ms), _words(found.buyer_is_maker),
        ]  # fmt: skip

    def _funding(self, file: File) -> tuple[Sequence[str], Columns]:
        contract = file.contract
        settled = settlements(contract, file.start_ms, file.end_ms - 1)
        slots = self._faults.slots("archive", contract.symbol, settled, file.path)
        rates = [decimal(path.funding_rate(self._seed, contract, slot_ms), 8) for slot_ms in slots]
        return _FUNDING, [
            pa.array([path.funding_time(self._seed, contract, slot_ms) for slot_ms in slots], pa.int64()),
            pa.array([interval_ms(contract, slot_ms) // (60 * MINUTE_MS) for slot_ms in slots], pa.int64()),
            pa.array(rates, pa.string()),
        ]

    def _metrics(self, file: File) -> tuple[Sequence[str], Columns]:
        """Every five minutes, as /futures/data tells them of periods that begin then."""
        opens = opens_between("5m", file.start_ms, file.end_ms)
        names = {name for name, _ in _METRICS_OF.values()}
        rows = {name: ANSWERS[name](self._tape, self._quotes, file.contract, "5m", opens) for name in names}
        told = {"symbol": [file.contract.symbol] * len(opens)} | {
            column: [row[field] for row in rows[name]] for column, (name, field) in _METRICS_OF.items()
        }
        times = [f"{datetime_of(int(at_ms)):%Y-%m-%d %H:%M:%S}" for at_ms in opens]
        return _METRICS, [pa.array(times), *(pa.array(told[name]) for name in _METRICS[1:])]


_METRICS_OF: Final = {
    "sum_open_interest": ("openInterestHist", "sumOpenInterest"),
    "sum_open_interest_value": ("openInterestHist", "sumOpenInterestValue"),
    "count_toptrader_long_short_ratio": ("topLongShortAccountRatio", "longShortRatio"),
    "sum_toptrader_long_short_ratio": ("topLongShortPositionRatio", "longShortRatio"),
    "count_long_short_ratio": ("globalLongShortAccountRatio", "longShortRatio"),
    "sum_taker_long_short_vol_ratio": ("takerlongshortRatio", "buySellRatio"),
}

_COLUMNS: Final[dict[str, Callable[[Archives, File], tuple[Sequence[str], Columns]]]] = {
    "klines": Archives._klines, **dict.fromkeys(_SAMPLED, Archives._klines), "aggTrades": Archives._agg_trades,
    "trades": Archives._trades, "fundingRate": Archives._funding, "metrics": Archives._metrics,
}  # fmt: skip


def _dated(found: re.Match[str], kind: str, contract: Contract, interval: str, *, daily: bool) -> File | None:
    date = found["date"] if daily else f"{found['date']}-01"
    try:
        start_ms = parse_time(date)
    except BadQuery:  # a day that does not exist, or no time of ours
        return None
    end_ms = start_ms + DAY_MS if daily else next_open_ms(start_ms, "1M")
    path_of_zip = found.group().removesuffix(".CHECKSUM")
    return File(path_of_zip, found["name"], kind, contract, interval, start_ms, end_ms, daily)


def _decimals(values: Index, digits: int) -> pa.Array:
    """Whole numbers of 10**-digits as text, all digits written out."""
    if digits == 0:
        return pc.cast(pa.array(values), pa.string())
    words = np.empty((len(values), 2), np.int64)
    words[:, 0] = values
    words[:, 1] = values >> 63
    exact = pa.Array.from_buffers(pa.decimal128(38, digits), len(values), [None, pa.py_buffer(words)])
    return pc.cast(exact, pa.string())


def _short(values: Index, digits: int) -> pa.Array:
    """The same without zeros at the end, as files of trades have it."""
    texts = _decimals(values, digits)
    return texts if digits == 0 else pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")


def _micro(times: pa.Array) -> pa.Array:
    return pc.multiply(times, 1_000)


def _words(flags: Mask) -> pa.Array:
    return pc.if_else(pa.array(flags), pa.scalar("true"), pa.scalar("false"))


def _interleaved(count: int) -> Index:
    """Every other row from the other half."""
    order = np.arange(count)
    half = (count + 1) // 2
    mixed = np.empty(count, np.int64)
    mixed[::2], mixed[1::2] = order[:half], order[half:]
    return mixed


def absent(target: str) -> Raw:
    """The bucket's answer for what it has not."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Key>{target[1:]}</Key></Error>'
    return Raw(status=404, body=body.encode(), media="application/xml")
