"""What can happen in a market, in the field's own words.

One struct per kind of record. The fields after `symbol` (and `interval`) are, in order, the columns of its dataset,
and their types are the columns' kinds:

    int          int64                       Ms is an int that holds UTC milliseconds
    Number       the venue's decimal text    never a float on its way to the disk
    str          a short text, few distinct values
    bool         a flag
    Levels       a book side
    float        derived figures only
    … | None     the venue may not say; None is "absent", which 0 never is

event_ms is the venue's clock. received_ms (ours) and origin (stream, job or file) are added on the way to the store.
"""

from typing import Annotated, NewType

from msgspec import Meta, Raw, Struct

from data_manager.domain.errors import Rejected
from data_manager.domain.time import EARLIEST_MS, LATEST_MS

Number = NewType("Number", str)
Pairs = list[tuple[Number, Number]]
Levels = Pairs | Raw
"""A book side: (price, quantity) pairs, or the venue's JSON text of them, which is read later, on whole columns."""
Ms = Annotated[int, Meta(ge=EARLIEST_MS, lt=LATEST_MS)]
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """Something the venue said about one symbol."""

    symbol: str


class Trade(Event, frozen=True, kw_only=True, gc=False):
    """One fill. Price in quote, quantity in base currency (COIN-M: contracts)."""

    trade_id: Id
    price: Number
    quantity: Number
    traded_ms: Ms
    buyer_is_maker: bool  # the taker sold
    kind: str | None = None  # MARKET, INSURANCE_FUND, NA (a placeholder for a burned id: price and quantity 0)
    event_ms: Ms | None = None  # history does not carry the time of sending


class AggTrade(Event, frozen=True, kw_only=True, gc=False):
    """Fills of one taker order at one price within 100 ms. Its ids are a number space of their own."""

    agg_id: Id
    price: Number
    quantity: Number
    plain_quantity: Number | None = None  # without fills against retail-price-improvement orders
    first_trade_id: Id
    last_trade_id: Id
    traded_ms: Ms  # of the first fill
    buyer_is_maker: bool
    event_ms: Ms | None = None


class Candle(Event, frozen=True, kw_only=True, gc=False):
    """Open, high, low, close of one interval. Volume in base, quote_volume in quote currency."""

    interval: str
    open_ms: Ms
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number
    quote_volume: Number | None = None
    trades: Id | None = None
    taker_buy_volume: Number | None = None
    taker_buy_quote_volume: Number | None = None
    first_trade_id: Id | None = None
    last_trade_id: Id | None = None
    close_ms: Ms
    closed: bool
    event_ms: Ms | None = None


class Depth(Event, frozen=True, kw_only=True, gc=False):
    """The best levels of a book at one instant: bids from the best down, asks from the best up."""

    update_id: Id
    event_ms: Ms
    clock: str  # venue, publisher or ours: whose clock event_ms is
    bids: Levels
    asks: Levels
    matched_ms: Ms | None = None


class DepthUpdate(Event, frozen=True, kw_only=True, gc=False):
    """Levels that changed since the update before; quantity 0 removes a level."""

    update_id: Id
    first_update_id: Id
    previous_update_id: Id | None = None  # spot names none: there first_update_id follows the last update_id
    event_ms: Ms
    matched_ms: Ms | None = None
    bids: Levels
    asks: Levels


class BookTicker(Event, frozen=True, kw_only=True, gc=False):
    """Best bid and ask."""

    update_id: Id
    event_ms: Ms
    clock: str  # venue, publisher or ours: spot names no time
    bid: Number
    bid_quantity: Number
    ask: Number
    ask_quantity: Number
    matched_ms: Ms | None = None


class MarkPrice(Event, frozen=True, kw_only=True, gc=False):
    """Mark price of a contract, with the running estimate of the coming funding rate (a fraction per settlement)."""

    event_ms: Ms
    mark_price: Number
    mark_price_average: Number | None = None
    index_price: Number | None = None
    estimated_settle_price: Number | None = None
    funding_rate_estimate: Number | None = None
    next_funding_ms: Ms | None = None


class FundingRate(Event, frozen=True, kw_only=True, gc=False):
    """A settled funding rate: a fraction of the position's value. slot_ms is funding_ms without its jitter."""

    slot_ms: Ms
    rate_type: str  # Regular or Special
    funding_ms: Ms
    funding_rate: Number
    mark_price: Number | None = None
    event_ms: Ms | None = None


class Ticker(Event, frozen=True, kw_only=True, gc=False):
    """Rolling 24-hour statistics. Volume in base, quote_volume in quote currency."""

    event_ms: Ms
    price_change: Number
    price_change_percent: Number
    weighted_average_price: Number
    last_price: Number
    last_quantity: Number
    open: Number
    high: Number
    low: Number
    volume: Number
    quote_volume: Number
    open_ms: Ms
    close_ms: Ms
    first_trade_id: int  # -1 when there was no trade
    last_trade_id: int
    trades: Id
    bid: Number | None = None
    bid_quantity: Number | None = None
    ask: Number | None = None
    ask_quantity: Number | None = None


class Liquidation(Event, frozen=True, kw_only=True, gc=False):
    """A forced order. The venue publishes at most one per symbol and second: the stream is a sample, never complete."""

    traded_ms: Ms
    price: Number
    quantity: Number
    side: str  # of the order: sell closes a long
    average_price: Number
    last_filled_quantity: Number
    filled_quantity: Number
    order_type: str
    time_in_force: str
    status: str
    event_ms: Ms | None = None


class Metric(Event, frozen=True, kw_only=True, gc=False):
    """One derived figure over a window that ends at as_of_ms; value is None when there was too little data."""

    interval: str
    as_of_ms: Ms
    metric: str
    method: str
    window: str
    value: float | None = None
    inputs_have: Id
    inputs_need: Id
    event_ms: Ms | None = None


class Ignored(Struct, frozen=True):
    """A message that is not market data of ours and no error either: counted by reason, kept nowhere."""

    reason: str


Outcome = Event | Rejected | Ignored
"""What decoding makes of a row of a message. Rejected is a value here, it is not raised."""
