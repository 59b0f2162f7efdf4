"""Labels: books that do not name their symbol, held against the prices of the symbol that their label names.

The publisher calls every partial book without a symbol by the first stream it was configured with, so half of them may
be another symbol's. A price that came with its own symbol tells: it must lie between the book's best bid and best ask,
give or take a tolerance. The tolerance grows with the time between the two, so that an old price refuses nothing that
the market may have done since; and a book that is wide open refuses nothing at all. One price may have a wrong digit:
while the newest one is further from the one before than the market can have gone, a book near either is believed.

A book of a symbol whose price nobody has told yet is believed, and remembered: when the first two prices contradict it,
a finding names the rows. See docs/adr for why.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from math import inf
from operator import attrgetter
from typing import Any, Final, NamedTuple

from data_manager.domain import events
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Mislabelled
from data_manager.domain.events import Event
from data_manager.domain.finding import Finding
from data_manager.domain.time import MINUTE_MS
from data_manager.ports import Clock
from data_manager.services.ingesting.label_findings import Episodes, Unproven

PRICES: Final[Mapping[type[Event], tuple[str, ...]]] = {
    events.Trade: ("price",),
    events.AggTrade: ("price",),
    events.BookTicker: ("bid",),
    events.Ticker: ("bid", "last_price"),  # the last trade of a quiet symbol may be old; a bid is of now
    events.MarkPrice: ("mark_price",),
}
"""Where events that name their symbol tell what it costs; the first that is there."""

_SYMBOLS_MAX: Final = 20_000
_symbol = attrgetter("symbol")


class Price(NamedTuple):
    """What a symbol cost, by the venue's clock."""

    price: float
    at_ms: int


class Labels:
    """Learns prices and judges labelled books by them; findings() tells which series were labelled wrongly."""

    def __init__(self, market: str, labelled: frozenset[type], clock: Clock, *, tolerance: float = 0.1) -> None:
        """labelled: classes of events whose symbol is only a label's. tolerance: a fraction, doubled each minute."""
        self._market = market
        self._labelled = labelled
        self._tolerance = tolerance
        self._known: dict[str, Price] = {}
        self._disputed: dict[str, Price] = {}  # what a symbol cost before, where it cannot have gone from there
        self._ladder: list[tuple[float, str]] | None = None  # every price, ascending; None: to be made again
        self._unproven: dict[str, Unproven] = {}
        self._episodes = Episodes(clock)

    def learn(self, dataset: Dataset, told: Sequence[Event]) -> None:
        """The newest price of each symbol among these events, all of one dataset."""
        columns = PRICES.get(dataset.event)
        if columns is None:
            return
        for symbol, event in dict(zip(map(_symbol, told), told, strict=True)).items():  # hot where symbols are many
            price = getattr(event, columns[0])
            if price is None:
                price = next((text for column in columns[1:] if (text := getattr(event, column)) is not None), None)
            self._enter(symbol, _number(price), _time_ms(dataset, event))

    def judge(self, dataset: Dataset, told: Sequence[Event], received_ms: Sequence[int]) -> dict[int, Mislabelled]:
        """Positions of the books that are not of the symbol their label names, each with what is wrong."""
        found: dict[int, Mislabelled] = {}
        if dataset.event is not events.Depth:
            return found
        for position, event in enumerate(told):
            if event.__class__ in self._labelled:
                why = self._judge(dataset, event, received_ms[position])
                if why is not None:
                    found[position] = why
        return found

    @property
    def open(self) -> int:
        """Findings that last."""
        return self._episodes.open

    def findings(self) -> list[Finding]:
        """What is new, has grown or is over since the last call. Call it about once a second."""
        return self._episodes.turn()

    def adopt(self, findings: Sequence[Finding]) -> None:
        """Findings that an earlier run left open go on, and end when no such book comes any more."""
        self._episodes.adopt(findings)

    def _enter(self, symbol: str, price: float, at_ms: int) -> None:
        if not 0 < price < inf or (len(self._known) >= _SYMBOLS_MAX and symbol not in self._known):
            return
        before, newest, most = self._known.get(symbol), Price(price, at_ms), 1 + self._tolerance
        self._known[symbol] = newest
        self._ladder = None
        near = before is None or (price <= before.price * most and before.price <= price * most)  # however soon
        if before is not None and not (near or self._reached(price, price, before, at_ms)):
            self._disputed[symbol] = before
        elif self._disputed:
            self._disputed.pop(symbol, None)
        if self._unproven:
            self._prove(symbol, newest, alone=before is None)

    def _prove(self, symbol: str, price: Price, *, alone: bool) -> None:
        """Books that were believed before there was a price. alone: it is the first one, and may be a wrong one."""
        books = self._unproven.get(symbol)
        if books is None:
            return
        fits = self._reached(books.bid_max, books.ask_min, price, books.last_event_ms)
        if fits or not alone:
            del self._unproven[symbol]
        if not (fits or alone):
            self._episodes.stored(books, price.price)

    def _judge(self, dataset: Dataset, book: Any, received_ms: int) -> Mislabelled | None:
        symbol, (bid, ask) = book.symbol, _best(book)
        known = self._known.get(symbol)
        if known is None:
            self._note_unproven(Series(self._market, dataset.name, symbol), book.event_ms, bid, ask, received_ms)
            return None
        price, most = known.price, 1 + self._tolerance
        if bid <= price * most and price <= ask * most:
            return None
        disputed = self._disputed.get(symbol, known)
        if any(self._reached(bid, ask, one, book.event_ms) for one in (known, disputed)):
            return None
        fitting = self._whose(bid, ask)
        series = Series(self._market, dataset.name, symbol)
        self._episodes.quarantined(series, dataset.wire, fitting, received_ms, book.event_ms)
        return _mislabelled(symbol, bid, ask, known, book.event_ms, fitting)

    def _reached(self, bid: float, ask: float, known: Price, at_ms: int) -> bool:
        """Whether the market may have gone from a price to this book in the time between them."""
        most = 1 + self._tolerance * (1 + abs(at_ms - known.at_ms) / MINUTE_MS)
        return bid <= known.price * most and known.price <= ask * most

    def _whose(self, bid: float, ask: float) -> str | None:
        """The symbol whose price is nearest to the book, if one is near."""
        if self._ladder is None:
            self._ladder = sorted((known.price, symbol) for symbol, known in self._known.items())
        middle = (bid + ask) / 2 if bid and ask < inf else bid or ask
        at = bisect(self._ladder, (middle, ""))
        around = self._ladder[max(at - 1, 0) : at + 1]
        price, symbol = min(around, key=lambda one: max(one[0] / middle, middle / one[0]))
        return symbol if max(price / middle, middle / price) <= 1 + self._tolerance else None

    def _note_unproven(self, series: Series, event_ms: int, bid: float, ask: float, received_ms: int) -> None:
        held = self._unproven.get(series.symbol)
        if held is not None:
            held.add(event_ms, bid, ask, received_ms)
        elif len(self._unproven) < _SYMBOLS_MAX:
            self._unproven[series.symbol] = Unproven(series, event_ms, bid, ask, received_ms)


def _mislabelled(symbol: str, bid: float, ask: float, known: Price, at_ms: int, fitting: str | None) -> Mislabelled:
    age_s = abs(at_ms - known.at_ms) / 1_000
    whose = f"; it is near the price of {fitting}" if fitting else ""
    rule = f"a book from {bid:g} to {ask:g} is not of {symbol}, which cost {known.price:g} {age_s:.1f} s before{whose}"
    return Mislabelled("stream", symbol, rule)


def _best(book: Any) -> tuple[float, float]:
    """Best bid and best ask; a side without levels, or with what is no number, says nothing."""
    bid = _number(book.bids[0][0]) if book.bids else 0.0
    ask = _number(book.asks[0][0]) if book.asks else inf
    return bid if 0 < bid < inf else 0.0, ask if 0 < ask < inf else inf


def _number(text: str | None) -> float:
    """0.0 for what is no number: the column check names it."""
    try:
        return float(text) if text is not None else 0.0
    except ValueError:
        return 0.0


def _time_ms(dataset: Dataset, event: Event) -> int:
    sent: int | None = getattr(event, "event_ms", None)
    time_ms: int = getattr(event, dataset.time) if sent is None else sent
    return time_ms
