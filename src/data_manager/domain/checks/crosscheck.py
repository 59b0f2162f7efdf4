"""Cross-checks: the same facts told twice must agree, to the last digit.

    fine candles -> coarse candles    open of the first, highest, lowest, close of the last, sums
    trades       -> candles           the same from single fills
    aggregates   -> candles           the same within what one aggregate across the edge of a bar can move

A bar is judged only where all that lies in it is held; what it is judged by must be whole. What the venue does by its
own rules is no difference, but is counted as excused:

- Placeholder trades (price and quantity 0, X="NA") burn an id and are no price. Ids and the venue's own count of trades
  therefore disagree, and nothing here counts ids.
- Fills of the insurance fund and of auto-deleveraging (kind other than MARKET) are trades and yet may be left out of
  candles and aggregates: a candle that equals the bar of all fills is right, and so is one that equals that of market
  fills alone.
- An aggregate gathers up to 100 ms of fills of one taker order and bears the time of the first. The last aggregate of a
  bar may therefore hold fills of the next one: it moves volume across the edge, and its price may be the open, high or
  low of the next bar.
- A bar without trades is flat at the close before it, with volume 0; spot omits such bars altogether.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import Batch
from data_manager.domain.checks.bars import (
    Bars,
    bars_of_candles,
    bars_of_fills,
    gather,
    is_market,
    next_opens,
    opens_of,
)
from data_manager.domain.dataset import Series
from data_manager.domain.span import Span, union
from data_manager.domain.time import DAY_MS, INTERVALS_MS
from data_manager.domain.values.columns import Flags, Ints, Mask
from data_manager.domain.values.decimals import Decimals
from data_manager.domain.values.exact import Exact, exact, minus, plus, raised, unlike

DIFFERENCES_MAX: Final = 1_000
AGGREGATION_MS: Final = 100
_FIELDS: Final = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
_AGGREGATED: Final = tuple(field for field in _FIELDS if field != "trades")  # burned ids: the ids tell no count

Index = NDArray[np.int64]


class Difference(Struct, frozen=True):
    """One field of one candle in which what is held disagrees with what follows from the rows it was judged by."""

    series: str
    field: str
    start_ms: int  # the candle's open time
    end_ms: int
    held: str
    computed: str
    source: str  # id of the series it was judged by


class CrossCheck(Struct, frozen=True, kw_only=True):
    """agreed + excused + differing = judged; judged + unjudged = candles given."""

    agreed: int
    excused: int
    differing: int
    unjudged: int
    differences: tuple[Difference, ...]  # of the first candles that differ, DIFFERENCES_MAX at most
    unjudged_from_ms: int | None = None  # open time of the first candle that could not be judged

    @property
    def judged(self) -> int:
        """Candles that could be compared."""
        return self.agreed + self.excused + self.differing


def candles_from_candles(fine: Batch, coarse: Batch) -> CrossCheck:
    """Judge coarse candles by finer ones of the same symbol; both settled, of one series each.

    A coarse candle is judged when every fine one in it is held. Fields that either side leaves out are not compared.
    """
    opens = coarse.key
    bars = bars_of_candles(fine, opens, next_opens(opens, _interval(coarse)))
    judged = np.flatnonzero(bars.whole)
    fields = {name: values.take(judged) for name, values in bars.fields.items()}
    return _told(fine, coarse, judged, _wrong(fields, coarse, judged, _FIELDS), {}, fields)


def candles_from_trades(trades: Batch, candles: Batch, complete: Sequence[Span] = ()) -> CrossCheck:
    """Judge candles by the trades in them; both settled, of one series each.

    A candle is judged when it lies in one of the spans known to be complete, or when the ids of its trades follow one
    another without a jump, from the last before it to the first after it.
    """
    price, quantity = exact(_decimals(trades, "price")), exact(_decimals(trades, "quantity"))
    real = (price.values != 0).astype(np.bool_) & (quantity.values != 0).astype(np.bool_)
    market = real & is_market(trades)
    opens = candles.key
    ends = next_opens(opens, _interval(candles))
    order = gather(trades)
    judged = np.flatnonzero(
        _bracketed(trades.key[order], trades.time_ms[order], opens, ends) | _inside(complete, opens, ends)
    )
    bars = _fill_bars(trades, price, quantity, market, opens, ends, judged)
    wrong = _wrong(bars.fields, candles, judged, _FIELDS)
    if not (real != market).any():
        return _told(trades, candles, judged, wrong, {}, bars.fields)
    every = _wrong(_fill_bars(trades, price, quantity, real, opens, ends, judged).fields, candles, judged, _FIELDS)
    return _told(trades, candles, judged, wrong, every, bars.fields)


def candles_from_aggregates(aggregates: Batch, candles: Batch, complete: Sequence[Span] = ()) -> CrossCheck:
    """Judge candles by aggregate trades; both settled, of one series each. Counts of trades are not compared.

    Excused are candles that differ by no more than the last aggregate before either edge can have moved across it.
    """
    price, quantity = exact(_decimals(aggregates, "price")), exact(_decimals(aggregates, "quantity"))
    real = (price.values != 0).astype(np.bool_) & (quantity.values != 0).astype(np.bool_)
    opens = candles.key
    ends = next_opens(opens, _interval(candles))
    order = gather(aggregates)
    times = aggregates.time_ms[order]
    judged = np.flatnonzero(_bracketed(aggregates.key[order], times, opens, ends) | _inside(complete, opens, ends))
    bars = _fill_bars(aggregates, price, quantity, real, opens, ends, judged)
    wrong = _wrong(bars.fields, candles, judged, _AGGREGATED)
    if not any(mask.any() for mask in wrong.values()):
        return _told(aggregates, candles, judged, wrong, {}, bars.fields)
    spill = _Spill(aggregates.take(order), price.take(order), quantity.take(order), real[order])
    beyond = spill.beyond(bars.fields, candles.take(judged), opens[judged], ends[judged], wrong)
    return _told(aggregates, candles, judged, wrong, beyond, bars.fields)


def empty_bars(trades: Batch, interval: str) -> list[Span]:
    """Stretches of bars in which, by the unbroken ids around them, nobody traded: a candle is rightly absent there.

    trades: settled, of one series. Neither the bar of the first row nor that of the last is ever empty.
    """
    ids, times = trades.key, trades.time_ms
    if len(ids) < 2:
        return []
    from_ms = next_opens(opens_of(times[:-1], interval), interval)
    until_ms = opens_of(times[1:], interval)
    at = np.flatnonzero((ids[1:] - ids[:-1] == 1) & (until_ms > from_ms))
    return union(Span(start, end) for start, end in zip(from_ms[at].tolist(), until_ms[at].tolist(), strict=True))


# ── Who judges whom ──────────────────────────────────────────────────────────────────────────────────────────────────


class Judge(Struct, frozen=True):
    """A series that can judge another, by which comparison, and the columns that reads of either.

    bracketed: its rows tell that none is missing only together with the one before and the one after.
    """

    source: Series
    by: Callable[[Batch, Batch], CrossCheck]
    columns: tuple[str, ...]
    judged_columns: tuple[str, ...]
    bracketed: bool


_CANDLE: Final = ("open_ms", *_FIELDS)
_TRADE: Final = ("trade_id", "traded_ms", "price", "quantity", "buyer_is_maker", "kind")
_AGGREGATE: Final = (
    "agg_id", "traded_ms", "price", "quantity", "buyer_is_maker", "first_trade_id", "last_trade_id",
)  # fmt: skip
_JUDGES: Final[Mapping[str, Mapping[str, tuple[Callable[[Batch, Batch], CrossCheck], tuple[str, ...], bool]]]] = {
    "candle": {
        "candle": (candles_from_candles, _CANDLE, False),
        "trade": (candles_from_trades, _TRADE, True),
        "agg_trade": (candles_from_aggregates, _AGGREGATE, True),
    }
}
"""By dataset the datasets that can judge it, the best first: the comparison, what it reads, whether it is bracketed."""

_NUMBERED_FILLS: Final = "trade"
OMITS_EMPTY_BARS: Final = frozenset({"spot"})
"""Markets whose venue makes no candle of a bar in which nobody traded; the others make a flat one."""


def fills_of(series: Series) -> Series | None:
    """The series whose unbroken ids prove that there was nothing to make a bar of; None where every bar is made."""
    if series.market not in OMITS_EMPTY_BARS or series.dataset not in _JUDGES:
        return None
    return Series(series.market, _NUMBERED_FILLS, series.symbol)


def judges_of(series: Series, held: Iterable[Series]) -> list[Judge]:
    """Of the series held of the same symbol, those that can judge this one: the finest candles first, then fills."""
    ways = _JUDGES.get(series.dataset, {})
    usable = [one for one in held if one.dataset in ways and (one.interval is None or _makes_up(one, series))]
    order = list(ways)
    usable.sort(key=lambda one: (order.index(one.dataset), INTERVALS_MS[one.interval] or 0 if one.interval else 0))
    judges = []
    for one in usable:
        by, columns, bracketed = ways[one.dataset]
        judges.append(Judge(one, by, columns, _CANDLE, bracketed))
    return judges


def _makes_up(fine: Series, coarse: Series) -> bool:
    """Whether candles of the one are whole parts of candles of the other, wherever these open."""
    short, long = INTERVALS_MS[fine.interval or ""], INTERVALS_MS[coarse.interval or ""]
    if short is None or short > DAY_MS or DAY_MS % short:
        return False
    return long is None or (long > short and long % short == 0)


# ── Which bars can be judged ─────────────────────────────────────────────────────────────────────────────────────────


def _bracketed(ids: Index, times: Index, opens: Index, ends: Index) -> Mask:
    """Per bar: a row before it and one after it are held, and the ids between them are all there."""
    low, high = np.searchsorted(times, opens), np.searchsorted(times, ends)
    within = (low > 0) & (high < len(ids))
    first, last = np.maximum(low - 1, 0), np.minimum(high, max(len(ids) - 1, 0))
    if len(ids) == 0:
        return within
    jumps = np.concatenate([[0], np.cumsum(np.diff(ids) != 1)])
    unbroken: Mask = within & (jumps[last] == jumps[first])
    return unbroken


def _inside(complete: Sequence[Span], opens: Index, ends: Index) -> Mask:
    spans = union(complete)
    if not spans:
        return np.zeros(len(opens), np.bool_)
    starts = np.array([span.start_ms for span in spans])
    stops = np.array([span.end_ms for span in spans])
    at = np.searchsorted(starts, opens, side="right") - 1
    inside: Mask = (at >= 0) & (ends <= stops[np.maximum(at, 0)])
    return inside


def _fill_bars(
    rows: Batch, price: Exact, quantity: Exact, kept: Mask, opens: Index, ends: Index, judged: Index
) -> Bars:
    maker = rows.columns["buyer_is_maker"]
    assert isinstance(maker, Flags)
    order = gather(rows)
    order = order[kept[order]]
    return bars_of_fills(
        rows.time_ms[order], price.take(order), quantity.take(order), ~maker.values[order], opens[judged], ends[judged]
    )


# ── What differs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _wrong(fields: dict[str, Exact], held: Batch, judged: Index, names: Sequence[str]) -> dict[str, Mask]:
    """By field, per judged bar: what is held disagrees with the fields computed for it."""
    return {name: unlike(fields[name], _held(held, name).take(judged)) for name in names}


def _held(candles: Batch, name: str) -> Exact:
    column = candles.columns[name]
    if isinstance(column, Ints):
        return Exact(column.values, 0, column.absent)
    assert isinstance(column, Decimals)
    return exact(column)


def _told(
    source: Batch,
    candles: Batch,
    judged: Index,
    wrong: dict[str, Mask],
    second: dict[str, Mask],
    fields: dict[str, Exact],
) -> CrossCheck:
    """The answer. second: wrong by the other reading, where there is one; a bar right by either is excused."""
    unequal = _any(wrong, len(judged))
    differing = unequal & _any(second, len(judged)) if second else unequal
    differences: list[Difference] = []
    ends = next_opens(candles.key, _interval(candles))
    unjudged = np.delete(candles.key, judged)
    for bar in np.flatnonzero(differing).tolist():
        if len(differences) >= DIFFERENCES_MAX:
            break
        row = int(judged[bar])
        differences += [
            Difference(
                candles.series[0].id,
                name,
                int(candles.key[row]),
                int(ends[row]),
                _held(candles.take(slice(row, row + 1)), name).text(0),
                fields[name].text(bar),
                source.series[0].id,
            )
            for name, mask in wrong.items()
            if mask[bar]
        ]
    return CrossCheck(
        agreed=int((~unequal).sum()),
        excused=int((unequal & ~differing).sum()),
        differing=int(differing.sum()),
        unjudged=len(candles) - len(judged),
        differences=tuple(differences[:DIFFERENCES_MAX]),
        unjudged_from_ms=int(unjudged.min()) if len(unjudged) else None,
    )


def _any(masks: dict[str, Mask], length: int) -> Mask:
    hit = np.zeros(length, np.bool_)
    for mask in masks.values():
        hit |= mask
    return hit


def _interval(candles: Batch) -> str:
    interval = candles.series[0].interval
    assert interval is not None, "candles have an interval"
    return interval


def _decimals(batch: Batch, name: str) -> Decimals:
    column = batch.columns[name]
    assert isinstance(column, Decimals)
    return column


# ── Aggregates across an edge ────────────────────────────────────────────────────────────────────────────────────────


class _Spill:
    """What the last aggregate before an edge may have moved across it. Rows in the order of time."""

    def __init__(self, rows: Batch, price: Exact, quantity: Exact, real: Mask) -> None:
        first, last = rows.columns["first_trade_id"], rows.columns["last_trade_id"]
        maker = rows.columns["buyer_is_maker"]
        assert isinstance(first, Ints)
        assert isinstance(last, Ints)
        assert isinstance(maker, Flags)
        kept = np.flatnonzero(real)
        self._times = rows.time_ms[kept]
        self._several = (last.values > first.values)[kept]
        self._buys = ~maker.values[kept]
        self._price, self._quantity = price.take(kept), quantity.take(kept)

    def beyond(
        self, fields: dict[str, Exact], held: Batch, opens: Index, ends: Index, wrong: dict[str, Mask]
    ) -> dict[str, Mask]:
        """wrong, less what the aggregates at the two edges of each bar explain."""
        before, at_open = self._last_before(opens)
        after, at_end = self._last_before(ends)
        answer = dict(wrong)
        if len(self._times) == 0:
            return answer
        straddler = self._price.take(before)
        for name in ("open", "high", "low"):
            same = ~unlike(_held(held, name), straddler)
            possible = at_open & same & _reaches(name, fields[name], straddler)
            answer[name] = wrong[name] & ~possible
        moved_in, moved_out = self._moved(before, at_open), self._moved(after, at_end)
        for name, into in moved_in.items():
            if name in wrong:
                low, high = minus(fields[name], moved_out[name]), plus(fields[name], into)
                answer[name] = wrong[name] & ~_between(_held(held, name), low, high)
        return answer

    def _last_before(self, edges: Index) -> tuple[Index, Mask]:
        """The last row before each edge, and whether its fills may reach across."""
        at = np.searchsorted(self._times, edges) - 1
        row = np.maximum(at, 0)
        if len(self._times) == 0:
            return row, np.zeros(len(edges), np.bool_)
        crosses: Mask = (at >= 0) & self._several[row] & (self._times[row] + AGGREGATION_MS >= edges)
        return row, crosses

    def _moved(self, rows: Index, crosses: Mask) -> dict[str, Exact]:
        """By field the most that these rows may have moved."""
        quantity, price = self._quantity.take(rows), self._price.take(rows)
        base = Exact(quantity.values * crosses, quantity.scale)
        bought = Exact(base.values * self._buys[rows], base.scale)
        return {
            "volume": base,
            "quote_volume": _product(base, price),
            "taker_buy_volume": bought,
            "taker_buy_quote_volume": _product(bought, price),
        }


def _product(one: Exact, other: Exact) -> Exact:
    return Exact(one.values.astype(object) * other.values, one.scale + other.scale)


def _reaches(name: str, computed: Exact, straddler: Exact) -> Mask:
    """Whether a fill at the straddler's price could set the bar's open, raise its high or lower its low."""
    if name == "open":
        return np.ones(len(computed.values), np.bool_)
    scale = max(computed.scale, straddler.scale)
    inner, outer = raised(computed, scale), raised(straddler, scale)
    return np.asarray(outer > inner if name == "high" else outer < inner, np.bool_)


def _between(held: Exact, low: Exact, high: Exact) -> Mask:
    scale = max(held.scale, low.scale, high.scale)
    value: Any = raised(held, scale)
    return np.asarray((raised(low, scale) <= value) & (value <= raised(high, scale)), np.bool_)
