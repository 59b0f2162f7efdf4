"""Checks: rows that are facts and yet odd, found on whole columns.

What cannot be a fact was refused before it was kept (validity.py). What is left may still be wrong, or wrong together
with its neighbours: each check returns a mask of the rows it blames, and check() tells them as offences with span and
keys. Rows come settled, of one series, ascending by key.

    check             blames
    ordered_prices    high below open, low or close; low above one of them
    positive          a price or quantity of 0 or less (placeholder trades are exempt)
    at_most           a part above its whole (taker buy volume above volume)
    uncrossed         a best bid above the best ask (crossed), or equal to it (locked)
    in_time           a time that does not fit the order of the keys, or lies after the moment we received it
    on_grid           a candle that does not open and close where its interval does
    no_spike          a price far from its neighbours on both sides, see spikes.py
    told_once         a key that stands there twice
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import STREAM, Batch, same_key_as_before
from data_manager.domain.checks.astray import astray
from data_manager.domain.checks.bars import is_market, next_opens, opens_of
from data_manager.domain.checks.spikes import spikes
from data_manager.domain.time import EARLIEST_MS, LATEST_MS, MINUTE_MS, SECOND_MS
from data_manager.domain.values.columns import Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals
from data_manager.domain.values.exact import exact
from data_manager.domain.values.levels import Levels

Severity = Literal["info", "warning", "critical"]

OFFENCES_MAX: Final = 200
KEYS_MAX: Final = 20


class Check(Struct, frozen=True):
    """One rule: its name, the column it is about, how bad a broken one is, and the mask of the rows to blame.

    field is empty for a rule about key and time. columns: what it needs besides; a batch without is not judged by it.
    """

    rule: str
    field: str
    severity: Severity
    broken: Callable[[Batch], Mask]
    columns: tuple[str, ...] = ()


class Offence(Struct, frozen=True):
    """Rows that break one rule, near one another. What they speak of lies in [start_ms, end_ms): of a candle all of it.

    Their keys lie from first to last.

    rows: how many of those between break it; keys: the first KEYS_MAX of them.
    """

    rule: str
    field: str
    severity: Severity
    start_ms: int
    end_ms: int
    first_key: int
    last_key: int
    rows: int
    keys: tuple[int, ...]


def check(batch: Batch, checks: Iterable[Check] | None = None, at_most: int = OFFENCES_MAX) -> list[Offence]:
    """All offences of the rows of one series, by the checks declared for its dataset unless others are given.

    At most at_most per rule: neighbouring ones are told together where there are more.
    """
    offences: list[Offence] = []
    for one in CHECKS.get(batch.dataset.name, ()) if checks is None else checks:
        if len(batch) and batch.columns.keys() >= {one.field, *one.columns} - {""}:
            offences += _offences(one, batch, np.flatnonzero(one.broken(batch)), at_most)
    return offences


def _offences(one: Check, batch: Batch, rows: NDArray[np.int64], at_most: int) -> list[Offence]:
    """Rows to blame as offences: cut where most rows lie between two of them."""
    if len(rows) == 0:
        return []
    distance = np.diff(rows)
    cuts = np.flatnonzero(distance > 1)
    if len(cuts) >= at_most:
        cuts = np.sort(np.argpartition(-distance, at_most - 1)[: at_most - 1])
    edges = [0, *(cuts + 1).tolist(), len(rows)]
    keys, moments = batch.key[rows], batch.time_ms[rows]
    low, high = np.minimum.reduceat(moments, edges[:-1]).tolist(), np.maximum.reduceat(moments, edges[:-1])
    interval = batch.series[0].interval
    ends = (high + 1 if interval is None else next_opens(high, interval)).tolist()
    return [
        Offence(
            one.rule, one.field, one.severity, low[i], ends[i], int(keys[start]), int(keys[end - 1]), end - start,
            tuple(keys[start : min(end, start + KEYS_MAX)].tolist()),
        )
        for i, (start, end) in enumerate(pairwise(edges))
    ]  # fmt: skip


# ── The rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


def ordered_prices() -> Check:
    """high >= open, close and low; low <= open and close; rows where one is absent pass."""

    def broken(batch: Batch) -> Mask:
        opened, high, low, close = (_numbers(batch, name) for name in ("open", "high", "low", "close"))
        pairs = ((high, opened), (high, close), (high, low), (opened, low), (close, low))
        return _any([upper.compare(lower) < 0 for upper, lower in pairs])

    return Check("ordered_prices", "high", "critical", broken, ("open", "low", "close"))


def positive(field: str, placeholder: tuple[str, str] | None = None) -> Check:
    """Above 0; absent passes. placeholder: columns that are all 0 in rows that are no fill but a burned id."""

    def broken(batch: Batch) -> Mask:
        wrong: Mask = _numbers(batch, field).signs() <= 0
        if placeholder:
            wrong &= ~np.logical_and.reduce([_numbers(batch, name).signs() == 0 for name in placeholder])
        return wrong

    return Check("positive", field, "critical", broken, placeholder or ())


def at_most(part: str, whole: str) -> Check:
    """part <= whole, exactly; rows where either is absent pass."""
    return Check(
        "at_most", part, "critical", lambda batch: _numbers(batch, whole).compare(_numbers(batch, part)) < 0, (whole,)
    )


def uncrossed(bid: str, ask: str, *, locked: bool) -> Check:
    """The best bid lies below the best ask. locked: blame equal ones instead of crossed ones. A side of 0 is empty."""

    def broken(batch: Batch) -> Mask:
        buy, sell = _numbers(batch, bid), _numbers(batch, ask)
        sign = buy.compare(sell)
        return ((sign == 0) if locked else (sign > 0)) & (buy.signs() > 0) & (sell.signs() > 0)

    return Check("locked" if locked else "crossed", bid, "info" if locked else "critical", broken, (ask,))


def uncrossed_levels(*, locked: bool) -> Check:
    """The same for whole books: the highest bid against the lowest ask, whatever the order of the levels."""

    def broken(batch: Batch) -> Mask:
        bids, asks = batch.columns["bids"], batch.columns["asks"]
        assert isinstance(bids, Levels)
        assert isinstance(asks, Levels)
        both = np.flatnonzero((bids.counts > 0) & (asks.counts > 0))
        wrong = np.zeros(len(batch), np.bool_)
        if len(both):
            sign = _best(bids.take(both), np.maximum).compare(_best(asks.take(both), np.minimum))
            wrong[both] = sign == 0 if locked else sign > 0
        return wrong

    return Check("locked" if locked else "crossed", "bids", "info" if locked else "critical", broken, ("asks",))


def in_time(back_ms: int = SECOND_MS, ahead_ms: int = MINUTE_MS) -> Check:
    """Times rise with the key (to within back_ms), lie in our age, and not ahead_ms or more after a row was received.

    Where they go up and down as few rows as possible are blamed, see astray.py. Clocks differ: only what is further off
    than the skew of a healthy recorder is.
    """

    def broken(batch: Batch) -> Mask:
        moments = batch.time_ms
        wrong: Mask = (moments < EARLIEST_MS) | (moments >= LATEST_MS)
        received = batch.columns.get("received_ms")
        if isinstance(received, Ints):
            wrong = wrong | (moments >= received.values + ahead_ms)
        fit = np.flatnonzero(~wrong)  # a row that is ahead makes none late
        wrong[fit[astray(moments[fit], back_ms)]] = True
        return wrong

    return Check("in_time", "", "warning", broken)


def on_grid() -> Check:
    """A candle opens on the grid of its interval and closes one millisecond before the next one opens."""

    def broken(batch: Batch) -> Mask:
        interval = batch.series[0].interval
        assert interval is not None, "candles have an interval"
        opens = batch.key
        wrong: Mask = next_opens(opens, interval) - 1 != _ints(batch, "close_ms").values
        # The venue does not document where 3d is anchored: there the length alone is judged.
        return wrong if interval == "3d" else wrong | (opens_of(opens, interval) != opens)

    return Check("on_grid", "close_ms", "critical", broken)


def no_spike(field: str, *, kind: bool = False, z_max: float = 12.0, fraction_min: float = 0.02) -> Check:
    """See spikes.spikes(). kind: the rows are fills of several kinds, of which only those of the market are judged."""

    def broken(batch: Batch) -> Mask:
        prices = _numbers(batch, field).floats()
        return spikes(np.where(is_market(batch), prices, np.nan) if kind else prices, z_max, fraction_min)

    return Check("spike", field, "warning", broken, ("kind",) if kind else ())


def told_once() -> Check:
    """No key stands there twice. A store cannot hold such rows; a copy of it, or a file, can."""
    return Check("told_once", "", "critical", same_key_as_before)


def stale_on_arrival(after_ms: int) -> Check:
    """A streamed row that came after_ms or more after its time; rows of other origins are history and always late."""

    def broken(batch: Batch) -> Mask:
        origin = batch.columns["origin"]
        assert isinstance(origin, Texts)
        streamed = np.array([*(word == STREAM for word in origin.words), False])[origin.codes]
        late: Mask = streamed & (_ints(batch, "received_ms").values - batch.time_ms >= after_ms)
        return late

    return Check("stale_on_arrival", "received_ms", "info", broken, ("origin",))


def _numbers(batch: Batch, name: str) -> Decimals:
    column = batch.columns[name]
    assert isinstance(column, Decimals)
    return column


def _ints(batch: Batch, name: str) -> Ints:
    column = batch.columns[name]
    assert isinstance(column, Ints)
    return column


def _any(masks: Iterable[Mask]) -> Mask:
    hit: Mask = np.logical_or.reduce(list(masks))
    return hit


def _best(side: Levels, ufunc: np.ufunc) -> Decimals:
    """The best price of each row; every row has a level."""
    price = exact(side.prices)
    best = ufunc.reduceat(price.values, side.offsets[:-1])
    if best.dtype == np.int64:
        return Decimals(best, price.scale)
    texts = {row: f"{value}e-{price.scale}" for row, value in enumerate(best)}
    return Decimals(np.zeros(len(best), np.int64), 0, texts)


_PRICES = tuple(no_spike(field) for field in ("high", "low", "close"))
CHECKS: Final[Mapping[str, tuple[Check, ...]]] = {
    "trade": (
        positive("price", ("price", "quantity")), positive("quantity", ("price", "quantity")), in_time(),
        no_spike("price", kind=True), told_once(),
    ),
    "agg_trade": (positive("price"), in_time(), no_spike("price"), told_once()),
    "candle": (
        ordered_prices(), positive("low"), at_most("taker_buy_volume", "volume"),
        at_most("taker_buy_quote_volume", "quote_volume"), on_grid(), *_PRICES, told_once(),
    ),
    "depth": (uncrossed_levels(locked=False), uncrossed_levels(locked=True), in_time(), told_once()),
    "depth_update": (in_time(), told_once()),
    "book_ticker": (
        uncrossed("bid", "ask", locked=False), uncrossed("bid", "ask", locked=True), in_time(), no_spike("bid"),
        no_spike("ask"), told_once(),
    ),
    "mark_price": (positive("mark_price"), in_time(), no_spike("mark_price"), told_once()),
    "funding_rate": (told_once(),),
    "ticker": (in_time(), no_spike("last_price"), told_once()),
    "liquidation": (positive("price"), positive("quantity"), in_time(), told_once()),
}  # fmt: skip
"""By dataset, what its rows are checked for."""
