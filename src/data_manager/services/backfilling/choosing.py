"""Which source is asked for which part: by the order of Dataset.refill, each for what those before it do not offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import difference, intersection
from data_manager.ports_source import Offer, Source, Wanted


class Step(NamedTuple):
    """Ask this source for that."""

    source: Source
    offer: Offer


Plan = Callable[[Sequence[Source], Wanted, int], Sequence[Step]]
"""Who may be asked, what is wanted, and now in; disjoint steps in order of time out, which need not cover it."""


def by_order(sources: Sequence[Source], wanted: Wanted, now_ms: int) -> list[Step]:
    """The plan that takes the calls of a dataset in their order, and what is coarse last."""
    order = DATASETS[wanted.series.dataset].refill
    offered = [Step(one, offer) for one in sources for offer in one.offers(wanted, now_ms) if offer.call in order]
    offered.sort(key=lambda step: (step.offer.coarse, order.index(step.offer.call), step.offer.span))
    left, steps = [wanted.span], list[Step]()
    for source, offer in offered:
        steps += [Step(source, replace(offer, span=part)) for part in intersection(left, [offer.span])]
        left = difference(left, [offer.span])
    return sorted(steps, key=lambda step: step.offer.span)
