"""Order books: which depthUpdate is a whole book and which a change to one, and books that do not say whose they are.

Partial books and changes share one shape on futures, and the publisher calls both "<symbol>@depth20@100ms". Only a
label that names no number of levels is proof: the publisher never writes one, so it came from the venue. Otherwise a
message is a whole book if everything speaks for it, and nothing less (evidence: docs/wire-evidence.md).
"""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from msgspec.json import Decoder as JsonDecoder
from msgspec.structs import force_setattr

from data_manager.adapters.binance.wire_words import Place
from data_manager.domain.errors import Invalid, Rejected, UnknownKind
from data_manager.domain.events import Depth, Event, Pairs
from data_manager.domain.values.levels import plain_levels

_MOST_LEVELS = 20
_SIDE = JsonDecoder(list[tuple[str, str]])
_LABEL = re.compile(r"[^@]*@(?P<kind>depth|rpiDepth)(?P<levels>\d{0,3})(?:@.*)?")


def finish_depth_update(update: Any, place: Place, *, market: str) -> Event | Rejected:
    """A whole book as Depth, a change as it is; its levels are pairs.

    A futures change without pu cannot be chained and is refused.
    """
    kind, most = _named(place.label)
    if kind == "rpiDepth":
        return UnknownKind(f"{place.label}: no dataset takes books with retail-price-improvement orders")
    if most and _may_be_whole(update, most):
        bids, asks = best_first(update.bids, update.asks)
        if bids == update.bids:  # they fell already
            return Depth(
                symbol=update.symbol, update_id=update.update_id, event_ms=update.event_ms, clock="venue",
                bids=bids, asks=asks, matched_ms=update.matched_ms,
            )  # fmt: skip
    if update.previous_update_id is None and market != "spot":
        return Invalid(place.path("pu"), None, f"must name the update before (MARKET is {market}, and futures name it)")
    event: Event = update
    return event


def finish_depth_text(update: Any, place: Place, *, market: str) -> Event | Rejected:
    """The same for levels left as text. Where they are written in another way, the closer look decides."""
    texts = bytes(update.bids), bytes(update.asks)
    bids, asks = map(plain_levels, texts)
    if bids is None or asks is None:
        return Invalid(place.path("b" if bids is None else "a"), None, "is not written as the venue writes it")
    kind, most = _named(place.label)
    if 2 <= bids <= most and asks <= most and not _surely_a_change(*texts):  # then the levels decide
        force_setattr(update, "bids", _SIDE.decode(update.bids))
        force_setattr(update, "asks", _SIDE.decode(update.asks))
        return finish_depth_update(update, place, market=market)
    if kind == "rpiDepth" or (update.previous_update_id is None and market != "spot"):
        return finish_depth_update(update, place, market=market)
    event: Event = update
    return event


def finish_labelled_book(book: Any, place: Place) -> Event | Rejected:
    """A book without e and without a symbol: the publisher's spot partial book, or a REST answer. Its symbol is the
    label's; without a label it stays empty, which no market takes."""
    force_setattr(book, "symbol", label_symbol(place.label) or "")
    return finish_book(book, place)


def finish_book(book: Any, place: Place) -> Event | Rejected:
    """A book without e that names its symbol."""
    _date(book, place)
    bids, asks = best_first(book.bids, book.asks)
    force_setattr(book, "bids", bids)
    force_setattr(book, "asks", asks)
    event: Event = book
    return event


def finish_spot_book_ticker(ticker: Any, place: Place) -> Event | Rejected:
    """A best bid and ask without e; spot names no time."""
    _date(ticker, place)
    event: Event = ticker
    return event


def label_symbol(label: str) -> str | None:
    """BTCUSDT of btcusdt@depth20@100ms; None where the label names no symbol."""
    symbol, at, _ = label.partition("@")
    return symbol.upper() if at and symbol and not symbol.startswith("!") else None


def best_first(bids: Pairs, asks: Pairs) -> tuple[Pairs, Pairs]:
    """Both sides by exact price: bids fall from the best, asks rise. Where a price is no number both stay as they are;
    the column check names it."""
    if _in_order(bids, asks):
        return bids, asks
    try:
        return sorted(bids, key=_price, reverse=True), sorted(asks, key=_price)
    except InvalidOperation:
        return bids, asks


def _date(event: Any, place: Place) -> None:
    at_ms, clock = (event.event_ms, "venue") if event.event_ms is not None else place.clock()
    force_setattr(event, "event_ms", at_ms)
    force_setattr(event, "clock", clock)


@lru_cache(maxsize=4096)
def _named(label: str) -> tuple[str | None, int]:
    """What a label says of a book: its kind, and how many levels a side it can have; 0 levels: it is a change."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return None, _MOST_LEVELS
    return found["kind"], min(int(found["levels"] or 0), _MOST_LEVELS)


def _may_be_whole(update: Any, most: int) -> bool:
    """Whether nothing but the order of the bids is left to ask: pu, at least two bids of which the second is lower,
    no more than most a side, none zero."""
    bids, asks = update.bids, update.asks
    if update.previous_update_id is None or not 2 <= len(bids) <= most or len(asks) > most:
        return False
    try:
        falling = float(bids[0][0]) > float(bids[1][0])
    except ValueError:
        return False  # no number: the column check names it
    return falling and _ZEROS.isdisjoint([size for _, size in bids]) and _ZEROS.isdisjoint([size for _, size in asks])


_ZEROS = frozenset(("0", *(f"0.{'0' * decimals}" for decimals in range(1, 19))))


def _surely_a_change(bids: bytes, asks: bytes) -> bool:
    """Whether the plain text of two sides or more tells it: a quantity is zero, or the second bid is not the lower.

    Says what _may_be_whole says of nearly all changes, for a tenth of what taking the levels apart costs.
    """
    _, first, _, _, _, second, _ = bids.split(b'"', 6)
    if _ZERO_QUANTITY.search(bids) or _ZERO_QUANTITY.search(asks):
        return True
    try:
        return float(first) <= float(second)
    except ValueError:
        return False  # no number: the column check names it


_ZERO_QUANTITY = re.compile(rb',"0(?:\.0{1,18})?"\]')


def _in_order(bids: Pairs, asks: Pairs) -> bool:
    """Whether prices fall all the way from the highest ask to the lowest bid. Never True where they do not, and cheap:
    numbers written with as many digits before and after the point have the order of their texts."""
    prices = [price for price, _ in asks]
    prices.reverse()
    prices += [price for price, _ in bids]
    return _written_alike(prices) and sorted(prices, reverse=True) == prices


def _written_alike(numbers: Sequence[str]) -> bool:
    """Whether all have one length and the point at one place, and none a sign or an exponent."""
    if not numbers:
        return True
    joined = ",".join(numbers)
    width, point = len(numbers[0]), numbers[0].find(".")
    if len(joined) != len(numbers) * (width + 1) - 1 or joined[width :: width + 1].count(",") != len(numbers) - 1:
        return False
    pointed = joined[point :: width + 1].count(".") == len(numbers) if point >= 0 else "." not in joined
    return pointed and joined.isascii() and not ("-" in joined or "+" in joined or "e" in joined or "E" in joined)


def _price(level: tuple[str, str]) -> Decimal:
    return Decimal(level[0])
