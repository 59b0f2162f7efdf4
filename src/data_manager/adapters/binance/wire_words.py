"""The venue's letters and their real names: one struct per kind of message, the letters on the lines of that kind.

Each struct is a subclass of its domain event with the same fields in the same order, so one typed decode of the bytes
yields the event itself and nothing is copied. What the letters alone do not settle is done by the `finish` functions
here and in wire_books.py: a function of (what was decoded, where it stood) that gives the event or says what is wrong.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields, force_setattr

from data_manager.domain import events
from data_manager.domain.errors import Invalid, Rejected
from data_manager.domain.events import Event
from data_manager.domain.time import EARLIEST_MS, HOUR_MS, INTERVALS_MS, LATEST_MS

Word = Annotated[str, Meta(max_length=32)]
Symbol = Annotated[str, Meta(max_length=48)]  # the venue's longest has 17; what we remember of each has a bound too
Label = Annotated[str, Meta(max_length=96)]
TradeId = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: there was no trade
FundingMs = Annotated[int, Meta(ge=0, lt=LATEST_MS)]  # 0: the contract has no scheduled funding
_BY_US = (str, "")  # a field the finish function sets


class Place(Struct, frozen=True, gc=False):
    """Where a row stood: what is known of it besides the row itself."""

    label: str = ""  # stream name of the frame; a hint, and on a depth update from the publisher a wrong one
    where: str = ""  # path of the row in the message: "data", "data[]", "[]", or "" for a bare one
    sent: datetime | None = None  # by the publisher's clock; naive means UTC
    received_ms: int = 0

    def path(self, name: str) -> str:
        """The path of one of the row's fields, in the venue's words: data.p"""
        return f"{self.where}.{name}" if self.where else name

    def clock(self) -> tuple[int, str]:
        """The best time for a row that names none, and whose it is: the publisher's or ours."""
        if self.sent is not None:
            sent_ms = ((self.sent if self.sent.tzinfo else self.sent.replace(tzinfo=UTC)) - _EPOCH) // _MS
            if EARLIEST_MS <= sent_ms < LATEST_MS:
                return sent_ms, "publisher"
        return self.received_ms, "ours"


Finish = Callable[[Any, Place], Event | Rejected]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def _reads(event: type[Event], letters: dict[str, str], *, strict: bool = False, **changed: Any) -> Any:
    """A subclass of event that decodes from the venue's letters (field name to letter).

    changed: by field name, a (type, default) where the wire's differs from the event's; and tag, the value of e.
    strict: no other letters may be there. A field without a letter gets a name that no message uses.
    """
    tag = changed.pop("tag", None)
    changed = {"symbol": (Symbol, msgspec.NODEFAULT), **changed}
    columns = [(column.name, *changed.get(column.name, (column.type, column.default))) for column in fields(event)]
    letters = {name: letters.get(name, f"({name})") for name, *_ in columns}
    options: dict[str, Any] = {"tag_field": "e", "tag": tag} if tag else {"forbid_unknown_fields": strict}
    return msgspec.defstruct(
        f"Wire{event.__name__}", columns, bases=(event,), module=__name__, rename=letters, frozen=True, kw_only=True,
        gc=False, **options,
    )  # fmt: skip


def _holds(name: str, tag: str, letters: dict[str, str], *columns: tuple[Any, ...]) -> Any:
    """A message whose facts stand one level deeper: the struct that holds the event."""
    return msgspec.defstruct(
        name, columns, module=__name__, rename=letters, frozen=True, kw_only=True, gc=False, tag_field="e", tag=tag
    )


WireTrade = _reads(
    events.Trade,
    {"symbol": "s", "trade_id": "t", "price": "p", "quantity": "q", "traded_ms": "T", "buyer_is_maker": "m",
     "kind": "X", "event_ms": "E"},
    tag="trade", kind=(Word | None, None),
)  # fmt: skip

WireAggTrade = _reads(
    events.AggTrade,
    {"symbol": "s", "agg_id": "a", "price": "p", "quantity": "q", "plain_quantity": "nq", "first_trade_id": "f",
     "last_trade_id": "l", "traded_ms": "T", "buyer_is_maker": "m", "event_ms": "E"},
    tag="aggTrade",
)  # fmt: skip

WireCandle = _reads(
    events.Candle,
    {"symbol": "s", "interval": "i", "open_ms": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v",
     "quote_volume": "q", "trades": "n", "taker_buy_volume": "V", "taker_buy_quote_volume": "Q", "first_trade_id": "f",
     "last_trade_id": "L", "close_ms": "T", "closed": "x", "event_ms": "E"},
    first_trade_id=(TradeId | None, None), last_trade_id=(TradeId | None, None),
)  # fmt: skip
WireKline = _holds("WireKline", "kline", {"symbol": "s", "event_ms": "E", "candle": "k"},
    ("symbol", Symbol, ""), ("event_ms", events.Ms), ("candle", WireCandle),
)  # fmt: skip

WireBookTicker = _reads(
    events.BookTicker,
    {"symbol": "s", "update_id": "u", "event_ms": "E", "bid": "b", "bid_quantity": "B", "ask": "a", "ask_quantity": "A",
     "matched_ms": "T"},
    tag="bookTicker", clock=(Literal["venue"], "venue"),
)  # fmt: skip

WireSpotBookTicker = _reads(
    events.BookTicker,
    {"symbol": "s", "update_id": "u", "event_ms": "E", "bid": "b", "bid_quantity": "B", "ask": "a", "ask_quantity": "A",
     "matched_ms": "T"},
    event_ms=(events.Ms | None, None), clock=_BY_US,
)  # fmt: skip

WireDepthUpdate = _reads(
    events.DepthUpdate,
    {"symbol": "s", "update_id": "u", "first_update_id": "U", "previous_update_id": "pu", "event_ms": "E",
     "matched_ms": "T", "bids": "b", "asks": "a"},
    tag="depthUpdate",
)  # fmt: skip

WireDepthText = _reads(
    events.DepthUpdate,
    {"symbol": "s", "update_id": "u", "first_update_id": "U", "previous_update_id": "pu", "event_ms": "E",
     "matched_ms": "T", "bids": "b", "asks": "a"},
    tag="depthUpdate", bids=(msgspec.Raw, msgspec.NODEFAULT), asks=(msgspec.Raw, msgspec.NODEFAULT),
)  # fmt: skip
"""The same with the levels left as text: a change may have a thousand of them, and columns read them faster."""

WireBook = _reads(
    events.Depth,
    {"symbol": "s", "update_id": "lastUpdateId", "event_ms": "E", "matched_ms": "T", "bids": "bids", "asks": "asks"},
    event_ms=(events.Ms | None, None), clock=_BY_US,
)  # fmt: skip

WireLabelledBook = _reads(
    events.Depth,
    {"update_id": "lastUpdateId", "event_ms": "E", "matched_ms": "T", "bids": "bids", "asks": "asks"},
    strict=True,  # a book that says more than its levels (a symbol, say) deserves the closer look
    symbol=_BY_US, event_ms=(events.Ms | None, None), clock=_BY_US,
)  # fmt: skip
"""A book that does not name its symbol: whose it is was read off the label of its stream, which may be wrong."""

WireMarkPrice = _reads(
    events.MarkPrice,
    {"symbol": "s", "event_ms": "E", "mark_price": "p", "mark_price_average": "ap", "index_price": "i",
     "estimated_settle_price": "P", "funding_rate_estimate": "r", "next_funding_ms": "T"},
    tag="markPriceUpdate", next_funding_ms=(FundingMs | None, None),
)  # fmt: skip

WireFundingRate = _reads(
    events.FundingRate,
    {"symbol": "symbol", "funding_ms": "fundingTime", "funding_rate": "fundingRate", "mark_price": "markPrice",
     "rate_type": "rateType", "event_ms": "E"},
    slot_ms=(int, 0), rate_type=(Word, "Regular"),
)  # fmt: skip

WireTicker = _reads(
    events.Ticker,
    {"symbol": "s", "event_ms": "E", "price_change": "p", "price_change_percent": "P", "weighted_average_price": "w",
     "last_price": "c", "last_quantity": "Q", "open": "o", "high": "h", "low": "l", "volume": "v", "quote_volume": "q",
     "open_ms": "O", "close_ms": "C", "first_trade_id": "F", "last_trade_id": "L", "trades": "n", "bid": "b",
     "bid_quantity": "B", "ask": "a", "ask_quantity": "A"},
    tag="24hrTicker", first_trade_id=(TradeId, msgspec.NODEFAULT), last_trade_id=(TradeId, msgspec.NODEFAULT),
)  # fmt: skip

WireLiquidation = _reads(
    events.Liquidation,
    {"symbol": "s", "traded_ms": "T", "price": "p", "quantity": "q", "side": "S", "average_price": "ap",
     "last_filled_quantity": "l", "filled_quantity": "z", "order_type": "o", "time_in_force": "f", "status": "X",
     "event_ms": "E"},
    order_type=(Word, msgspec.NODEFAULT), time_in_force=(Word, msgspec.NODEFAULT), status=(Word, msgspec.NODEFAULT),
)  # fmt: skip
WireForceOrder = _holds("WireForceOrder", "forceOrder", {"event_ms": "E", "order": "o"},
    ("event_ms", events.Ms), ("order", WireLiquidation),
)  # fmt: skip

TAGGED = (
    WireTrade, WireAggTrade, WireKline, WireBookTicker, WireDepthUpdate, WireMarkPrice, WireTicker, WireForceOrder,
)  # fmt: skip
"""What says in e what it is."""

QUICK = tuple(WireDepthText if kind is WireDepthUpdate else kind for kind in TAGGED)
"""The same, as the typed path reads them."""

EVENTS = (
    WireTrade, WireAggTrade, WireCandle, WireBookTicker, WireSpotBookTicker, WireDepthUpdate, WireDepthText, WireBook,
    WireLabelledBook, WireMarkPrice, WireFundingRate, WireTicker, WireLiquidation,
)  # fmt: skip
"""Every class of event the decoder hands out, besides the domain's own."""


def finish_kline(kline: Any, place: Place) -> Event | Rejected:
    """The candle of a kline message. A candle without a trade has -1 for its trade ids: they are absent."""
    candle: Event = kline.candle
    if kline.symbol and kline.symbol != candle.symbol:
        return Invalid(place.path("k.s"), candle.symbol, f"must be the message's symbol, {kline.symbol}")
    if kline.candle.interval not in INTERVALS_MS:
        rule = f"must be one of {' '.join(INTERVALS_MS)} (case matters: 1m is a minute, 1M a month)"
        return Invalid(place.path("k.i"), kline.candle.interval, rule)
    force_setattr(candle, "event_ms", kline.event_ms)
    for name in ("first_trade_id", "last_trade_id"):
        if getattr(candle, name) == -1:
            force_setattr(candle, name, None)
    return candle


def finish_mark_price(mark: Any, place: Place) -> Event | Rejected:
    """A mark price. Empty text is absent; T is the next funding time, 0 when none is scheduled."""
    for name in ("mark_price_average", "index_price", "estimated_settle_price", "funding_rate_estimate"):
        if getattr(mark, name) == "":
            force_setattr(mark, name, None)
    if mark.next_funding_ms == 0:
        force_setattr(mark, "next_funding_ms", None)
    elif mark.next_funding_ms is not None and mark.next_funding_ms < EARLIEST_MS:
        return Invalid(place.path("T"), mark.next_funding_ms, "must be milliseconds since 1970, or 0 for no funding")
    event: Event = mark
    return event


def finish_funding_rate(rate: Any, place: Place) -> Event | Rejected:
    """A settled rate. Its slot is the full hour nearest to the funding time, which jitters by some milliseconds.

    A message (it has e) may name a funding time still to come: that is the running estimate, which markPriceUpdate
    carries too, and no settled rate.
    """
    if rate.event_ms is not None and rate.funding_ms > rate.event_ms:
        return Invalid(
            place.path("fundingTime"),
            rate.funding_ms,
            f"must not lie after E {rate.event_ms}: only settled rates are kept",
        )
    if rate.mark_price == "":
        force_setattr(rate, "mark_price", None)
    force_setattr(rate, "slot_ms", (rate.funding_ms + HOUR_MS // 2) // HOUR_MS * HOUR_MS)
    event: Event = rate
    return event


def finish_force_order(message: Any, place: Place) -> Event | Rejected:
    """The liquidation order of a forceOrder message."""
    order: Event = message.order
    if message.order.side not in ("BUY", "SELL"):
        return Invalid(place.path("o.S"), message.order.side, "must be BUY or SELL")
    force_setattr(order, "event_ms", message.event_ms)
    return order
