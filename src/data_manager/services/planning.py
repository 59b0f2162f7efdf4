"""Which source is asked for which part, by what it costs: the cheapest that offers it, and nothing is asked twice.

    wanted      |---------------------------------------|
    archive     |==months==|=====days=====|                  0.01 s an hour
    rest        |=======================================|    0.10 s an hour
    steps       | archive  |   archive    |    rest     |

What an offer costs is taken as spread evenly over its span. Rows coarser than what was lost are asked for only where
nobody offers better ones; of equal offers the dataset's own order decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span, difference
from data_manager.ports.source import Offer, Source, Wanted
from data_manager.services.backfilling.choosing import Step


def by_cost(sources: Sequence[Source], wanted: Wanted, now_ms: int) -> list[Step]:
    """A Plan: disjoint steps in order of time, which cover what can be covered."""
    order = DATASETS[wanted.series.dataset].refill
    offered = [Step(one, offer) for one in sources for offer in one.offers(wanted, now_ms) if offer.call in order]
    offered.sort(key=lambda step: (step.offer.coarse, _rate(step.offer), order.index(step.offer.call)))
    edges = {edge for step in offered for edge in (step.offer.span.start_ms, step.offer.span.end_ms)}
    inside = {edge for edge in edges if wanted.span.holds(edge)}
    parts = pairwise(sorted({wanted.span.start_ms, *inside, wanted.span.end_ms}))
    return _merged([(Span(low, high), _best(offered, low)) for low, high in parts])


def unoffered(wanted: Wanted, steps: Sequence[Step]) -> list[Span]:
    """The parts of what is wanted that no step asks for: nobody can be asked for them now."""
    return difference([wanted.span], (step.offer.span for step in steps))


def _rate(offer: Offer) -> float:
    return offer.seconds / (offer.span.end_ms - offer.span.start_ms)


def _best(offered: Sequence[Step], ms: int) -> Step | None:
    """The first of the offers, best ones first, that spans the instant."""
    return next((step for step in offered if step.offer.span.holds(ms)), None)


def _merged(parts: Sequence[tuple[Span, Step | None]]) -> list[Step]:
    """Parts next to one another that come from one offer, as one step; those from none are left out."""
    merged: list[tuple[Span, Step]] = []
    for span, step in parts:
        if step is None:
            continue
        if merged and merged[-1][1] is step and merged[-1][0].end_ms == span.start_ms:
            merged[-1] = (Span(merged[-1][0].start_ms, span.end_ms), step)
        else:
            merged.append((span, step))
    return [step._replace(offer=_cut(step.offer, span)) for span, step in merged]


def _cut(offer: Offer, span: Span) -> Offer:
    seconds = _rate(offer) * (span.end_ms - span.start_ms)
    return replace(offer, span=span, seconds=seconds)
