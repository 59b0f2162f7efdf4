"""Bars: open, high, low, close and sums of rows by interval, exact, for whole columns at once."""

from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import Batch
from data_manager.domain.time import INTERVALS_MS, floor_open_ms
from data_manager.domain.values.columns import Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals
from data_manager.domain.values.exact import Exact, exact, extremes, sums, times

Index = NDArray[np.int64]

_SUMS: Final = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")


class Bars(Struct, frozen=True):
    """One value per bar and field. whole: the bars that could be computed; the others hold 0 and are marked absent."""

    whole: Mask
    fields: dict[str, Exact]


def bars_of_candles(fine: Batch, opens: Index, ends: Index) -> Bars:
    """Bars [opens, ends) made of finer candles, settled and of one series; whole where every one of them is held."""
    interval = fine.series[0].interval
    length = INTERVALS_MS[interval or ""]
    assert interval is not None
    assert length is not None, "months are no finer than anything"
    beside = opens_of(fine.key, interval) != fine.key
    on_grid = fine.take(~beside) if beside.any() else fine
    low, high = np.searchsorted(on_grid.key, opens), np.searchsorted(on_grid.key, ends)
    whole = (high - low) * length == ends - opens
    low, high = low[whole], high[whole]
    fields = {
        "open": _numbers(on_grid, "open").take(low),
        "high": extremes(_numbers(on_grid, "high"), np.maximum, low, high),
        "low": extremes(_numbers(on_grid, "low"), np.minimum, low, high),
        "close": _numbers(on_grid, "close").take(high - 1),
    }
    fields |= {name: sums(_numbers(on_grid, name), low, high) for name in _SUMS}
    return Bars(whole, {name: _spread(values, whole) for name, values in fields.items()})


def bars_of_fills(at: Index, price: Exact, quantity: Exact, bought: Mask, opens: Index, ends: Index) -> Bars:
    """Bars [opens, ends) of fills in the order of their times; bought: the taker bought.

    A bar without fills is flat at the price before it, which is absent where there is none, and its sums are 0.
    """
    low, high = np.searchsorted(at, opens), np.searchsorted(at, ends)
    some = high > low
    low_some, high_some = low[some], high[some]
    quote = times(price, quantity)
    flat = price.take(np.maximum(low - 1, 0)) if len(at) else Exact(np.zeros(len(opens), np.int64), 0)
    unknown = ~some & (low == 0)
    prices = {
        "open": price.take(low_some),
        "high": extremes(price, np.maximum, low_some, high_some),
        "low": extremes(price, np.minimum, low_some, high_some),
        "close": price.take(high_some - 1),
    }
    totals = {
        "volume": sums(quantity, low_some, high_some),
        "quote_volume": sums(quote, low_some, high_some),
        "trades": Exact(high_some - low_some, 0),
        "taker_buy_volume": sums(_only(quantity, bought), low_some, high_some),
        "taker_buy_quote_volume": sums(_only(quote, bought), low_some, high_some),
    }
    fields = {name: _filled(values, some, flat.values, unknown) for name, values in prices.items()}
    nothing = np.zeros(len(opens), np.int64)
    fields |= {name: _filled(values, some, nothing, np.zeros_like(some)) for name, values in totals.items()}
    return Bars(some, fields)


def is_market(trades: Batch) -> Mask:
    """Which fills are the market's own. Fills of the insurance fund and of deleveraging may lie far off its price.

    History does not tell the kind of a fill, and counts as market.
    """
    kind = trades.columns["kind"]
    assert isinstance(kind, Texts)
    by_word = np.array([*(word in ("MARKET", "") for word in kind.words), True])
    market: Mask = by_word[kind.codes]
    return market


def gather(batch: Batch) -> Index:
    """Row positions in the order of time; rows of one millisecond stay in the order of key."""
    moments = batch.time_ms
    if len(moments) < 2 or bool((moments[1:] >= moments[:-1]).all()):
        return np.arange(len(moments))
    return np.argsort(moments, kind="stable").astype(np.int64)


def opens_of(moments: Index, interval: str) -> Index:
    """Open time of the bar each moment lies in."""
    length = INTERVALS_MS[interval]
    if length is None:
        opens: Index = (
            moments.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        )
        return opens
    anchor = floor_open_ms(0, interval) % length
    return moments - (moments - anchor) % length


def next_opens(opens: Index, interval: str) -> Index:
    """Open time of the bar after each."""
    length = INTERVALS_MS[interval]
    if length is not None:
        return opens + length
    months = opens.astype("datetime64[ms]").astype("datetime64[M]") + np.timedelta64(1, "M")
    following: Index = months.astype("datetime64[ms]").astype(np.int64)
    return following


def _numbers(batch: Batch, name: str) -> Exact:
    column = batch.columns[name]
    if isinstance(column, Ints):
        return Exact(column.values, 0, column.absent)
    assert isinstance(column, Decimals)
    return exact(column)


def _only(one: Exact, kept: Mask) -> Exact:
    return Exact(one.values * kept, one.scale, one.absent)


def _spread(one: Exact, whole: Mask) -> Exact:
    """Values of the whole bars, at their places among all of them."""
    return _filled(one, whole, np.zeros(len(whole), np.int64), ~whole)


def _filled(one: Exact, some: Mask, otherwise: NDArray[Any], absent: Mask) -> Exact:
    """The values where some, otherwise elsewhere; absent where either says so."""
    kind = object if object in (one.values.dtype, otherwise.dtype) else np.int64
    values = otherwise.astype(kind)
    values[some] = one.values
    gone = absent.copy()
    if one.absent is not None:
        gone[some] |= one.absent
    return Exact(values, one.scale, gone if gone.any() else None)
