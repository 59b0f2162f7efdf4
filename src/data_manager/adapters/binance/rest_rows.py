"""Rows of REST answers as events and batches: the venue's positions and letters, and their real names.

A page is read row by row: one row that breaks the venue's word is refused and does not spoil the page.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct, defstruct

from data_manager.adapters.binance import wire_words as words
from data_manager.adapters.binance.gate import Reply
from data_manager.domain.batch import Refused, empty, pack
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Invalid
from data_manager.domain.events import AggTrade, Candle, Event, Id, MarkPrice, Ms, Number, Trade
from data_manager.domain.span import Span
from data_manager.ports.source import Fetched

R = TypeVar("R")

REFUSED_MAX: Final = 100
"""Refused rows that a piece tells one by one."""

PAGE: Final = msgspec.json.Decoder(list[Raw])
"""Any page: its rows unread."""


class CandleRow(Struct, array_like=True, frozen=True):
    """One row of klines and its like; what comes after these fields is passed over."""

    open_ms: Ms
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number
    close_ms: Ms
    quote_volume: Number
    trades: Id
    taker_buy_volume: Number
    taker_buy_quote_volume: Number


_AGGREGATE_LETTERS: Final = {
    "agg_id": "a", "price": "p", "quantity": "q", "plain_quantity": "nq", "first_trade_id": "f", "last_trade_id": "l",
    "traded_ms": "T", "buyer_is_maker": "m",
}  # fmt: skip
_TRADE_LETTERS: Final = {
    "trade_id": "id", "price": "price", "quantity": "qty", "traded_ms": "time", "buyer_is_maker": "isBuyerMaker",
}  # fmt: skip


def _reads(event: type[Event], letters: dict[str, str]) -> Any:
    """A subclass of event that decodes from the venue's letters; the symbol, which rows do not name, is set later."""
    columns: list[Any] = [
        (column.name, column.type, column.default) for column in msgspec.structs.fields(event) if column.name in letters
    ]
    named = letters | {"symbol": "(symbol)", "event_ms": "(event_ms)", "kind": "(kind)"}
    return defstruct(
        f"Rest{event.__name__}", [("symbol", str, ""), *columns], bases=(event,), module=__name__, rename=named,
        frozen=True, kw_only=True, gc=False,
    )  # fmt: skip


CANDLE: Final = msgspec.json.Decoder(CandleRow)
AGGREGATE: Final[msgspec.json.Decoder[AggTrade]] = msgspec.json.Decoder(_reads(AggTrade, _AGGREGATE_LETTERS))
TRADE: Final[msgspec.json.Decoder[Trade]] = msgspec.json.Decoder(_reads(Trade, _TRADE_LETTERS))
FUNDING: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(words.WireFundingRate)


def read_rows(raws: Sequence[Raw], decoder: msgspec.json.Decoder[R]) -> tuple[list[R], list[Refused]]:
    """The rows that are what they should be, and those that are not."""
    rows: list[R] = []
    refused: list[Refused] = []
    for position, raw in enumerate(raws):
        try:
            rows.append(decoder.decode(raw))
        except msgspec.DecodeError as error:
            refused.append(Refused(position, Invalid(f"[{position}]", bytes(raw)[:120].decode(), str(error))))
    return rows, refused


def beside(row: CandleRow, interval: str) -> Refused:
    """A row that opens where no candle does."""
    return Refused(0, Invalid("open_ms", row.open_ms, f"must be where a candle of {interval} opens"))


def candle(row: CandleRow, series: Series) -> Event:
    """A closed candle."""
    assert series.interval is not None, "candles have an interval"
    return Candle(
        symbol=series.symbol, interval=series.interval, open_ms=row.open_ms, open=row.open, high=row.high, low=row.low,
        close=row.close, volume=row.volume, quote_volume=row.quote_volume, trades=row.trades,
        taker_buy_volume=row.taker_buy_volume, taker_buy_quote_volume=row.taker_buy_quote_volume,
        close_ms=row.close_ms, closed=True,
    )  # fmt: skip


def mark_price(row: CandleRow, index: CandleRow | None, series: Series) -> Event:
    """The last mark price of a minute, and the index price then where it is known."""
    return MarkPrice(
        symbol=series.symbol, event_ms=row.close_ms, mark_price=row.close, index_price=index.close if index else None
    )


def funding_rate(rate: Any) -> Event | Invalid:
    """A settled rate; its slot is set."""
    found = words.finish_funding_rate(rate, words.Place())
    assert isinstance(found, Event | Invalid), "nothing else can be wrong with it"
    return found


def named(event: Any, symbol: str) -> Event:
    """The event of a row that does not say whose it is."""
    msgspec.structs.force_setattr(event, "symbol", symbol)
    named_event: Event = event
    return named_event


def piece(
    span: Span,
    series: Series,
    events: Sequence[Event],
    reply: Reply[Any],
    origin: str,
    refused: Sequence[Refused] = (),
) -> Fetched:
    """Events of one answer, packed and checked like live ones, with the answer as evidence."""
    dataset = DATASETS[series.dataset]
    if not events:
        evidence = reply.evidence(0, len(refused))
        return Fetched(span=span, rows=empty(dataset, (series,)), refused=refused[:REFUSED_MAX], evidence=evidence)
    packed = pack(dataset, series.market, events, [reply.answered_ms] * len(events), origin)
    broken = [*refused, *packed.refused]
    evidence = reply.evidence(len(packed.batch), len(broken))
    if packed.repeated:
        evidence["repeated"] = packed.repeated
    return Fetched(span=span, rows=packed.batch, refused=broken[:REFUSED_MAX], evidence=evidence)
