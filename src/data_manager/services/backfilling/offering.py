"""Whether anybody can be asked for what is wanted: what nobody has is refused at once, with what can be done."""

from __future__ import annotations

from collections.abc import Sequence

from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.job import Choice
from data_manager.domain.span import Span, union
from data_manager.domain.time import EARLIEST_MS, INTERVALS_MS, iso
from data_manager.ports.source import Source, Wanted
from data_manager.services.backfilling.asking import Names, can_be_had_again


def require_offer(
    sources: Sequence[Source], series: Series, span: Span, now_ms: int, choice: Choice, names: Names
) -> None:
    """Raise BadQuery where no source of that choice offers any part of span now, or ever will."""
    chosen = [one for one in sources if choice in ("auto", one.name)]
    if _offered(chosen, series, span, now_ms):
        return
    if not _offered(sources, series, span, now_ms):
        _require_ever(sources, series, span, now_ms, names)
    others = [one.name for one in sources if _offered([one], series, span, now_ms)]
    rule = f"has nothing of {series.id} from {iso(span.start_ms)} to {iso(span.end_ms)} now: ask {' or '.join(others)}"
    raise BadQuery("source", choice, rule)


def _require_ever(sources: Sequence[Source], series: Series, span: Span, now_ms: int, names: Names) -> None:
    """Raise BadQuery that tells what never comes from what is not there now."""
    ever = _offered(sources, series, Span(EARLIEST_MS, now_ms), now_ms)
    if not ever:
        possible = " ".join(_possible(sources, series, now_ms))
        rule = f"nobody can be asked for its past in market {series.market}: possible there are {possible}"
        raise BadQuery(names.dataset, series.id, rule)
    parts = ", ".join(f"{iso(one.start_ms)} to {iso(one.end_ms)}" for one in ever)
    raise BadQuery(names.start, iso(span.start_ms), f"nobody has {series.id} of that time now: possible is {parts}")


def _offered(sources: Sequence[Source], series: Series, span: Span, now_ms: int) -> list[Span]:
    """The parts of span that any of them offers, joined."""
    wanted = Wanted(series=series, span=span)
    return union(offer.span for one in sources for offer in one.offers(wanted, now_ms))


def _possible(sources: Sequence[Source], series: Series, now_ms: int) -> list[str]:
    """What GET /data/… calls the datasets of the series' symbol that anybody offers, in its market."""
    ever = Span(EARLIEST_MS, now_ms)
    found = []
    for dataset in DATASETS.values():
        interval = next(iter(INTERVALS_MS)) if dataset.has_interval else None
        one = Series(series.market, dataset.name, series.symbol, interval)
        if can_be_had_again(dataset) and _offered(sources, one, ever, now_ms):
            found.append(dataset.path)
    return found
