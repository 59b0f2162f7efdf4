"""Which source is asked for which part: by the order of Dataset.refill, each for what those before it do not offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from data_manager.domain.dataset import parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.job import Choice
from data_manager.domain.span import Span, intersection
from data_manager.domain.span import difference as rest_of
from data_manager.ports_source import Offer, Source, Wanted


class Step(NamedTuple):
    """Ask this source for that."""

    source: Source
    offer: Offer


Plan = Callable[[Wanted, int, Choice], Sequence[Step]]
"""What is wanted, now, and who may be asked in; disjoint steps in order of time out, which need not cover it."""


def by_order(sources: Sequence[Source]) -> Plan:
    """The plan that takes each dataset's calls in their order."""

    def plan(wanted: Wanted, now_ms: int, choice: Choice) -> list[Step]:
        order = DATASETS[wanted.series.dataset].refill
        asked = [one for one in sources if choice in ("auto", one.name)]
        offered = [Step(one, offer) for one in asked for offer in one.offers(wanted, now_ms)]
        offered = [step for step in offered if step.offer.call in order]
        offered.sort(key=lambda step: (step.offer.coarse, order.index(step.offer.call), step.offer.span))
        left, steps = [wanted.span], list[Step]()
        for source, offer in offered:
            for part in intersection(left, [offer.span]):
                steps.append(Step(source, replace(offer, span=part)))
            left = rest_of(left, [offer.span])
        return sorted(steps, key=lambda step: step.offer.span)

    return plan


def wanted_of(series_id: str, span: Span, after: int | None = None, before: int | None = None) -> Wanted:
    """Rows of a series named by its id."""
    return Wanted(series=parse_series(series_id, DATASETS, ""), span=span, after=after, before=before)
