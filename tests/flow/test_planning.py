"""The plan by cost: a partition of what is offered, the cheapest for each part, coarse rows last."""

from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.dataset import Series
from data_manager.domain.span import Span, difference, intersection, union
from data_manager.ports.source import Fetched, Offer, Wanted
from data_manager.services.planning import by_cost, unoffered

CANDLES = Wanted(series=Series("um", "candle", "BTCUSDT", "1m"), span=Span(0, 100))


class Offers:
    """A source that offers what it is told to."""

    def __init__(self, name: str, *offers: Offer) -> None:
        self.name = name
        self.given = offers

    def offers(self, wanted: Wanted, now_ms: int) -> list[Offer]:
        return list(self.given)

    def fetch(self, wanted: Wanted, offer: Offer, origin: str) -> AsyncIterator[Fetched]:
        raise NotImplementedError

    async def knows(self, series: Series) -> bool | None:
        return None

    async def close(self) -> None:
        """Nothing is open."""


def offer(call: str, start: int, end: int, seconds: float, *, coarse: bool = False) -> Offer:
    return Offer(call=call, span=Span(start, end), seconds=seconds, coarse=coarse)


def plan(*sources: Offers, wanted: Wanted = CANDLES) -> list[tuple[str, int, int, float]]:
    steps = by_cost(sources, wanted, 0)
    return [(one.source.name, one.offer.span.start_ms, one.offer.span.end_ms, round(one.offer.seconds, 6)) for one in steps]  # fmt: skip


def test_archives_take_the_bulk_and_rest_what_is_recent() -> None:
    archive = Offers("archive", offer("archive:klines", 0, 60, 1), offer("archive:klines", 60, 90, 2))
    rest = Offers("rest", offer("rest:klines", 0, 99, 9.9))
    assert plan(rest, archive) == [("archive", 0, 60, 1), ("archive", 60, 90, 2), ("rest", 90, 99, 0.9)]
    steps = by_cost([rest, archive], CANDLES, 0)
    assert unoffered(CANDLES, steps) == [Span(99, 100)]


def test_of_equal_offers_the_datasets_order_decides_and_coarse_ones_come_last() -> None:
    archive = Offers("archive", offer("archive:klines", 0, 100, 5))
    rest = Offers("rest", offer("rest:klines", 0, 100, 5))
    assert [step[0] for step in plan(archive, rest)] == ["rest"]
    coarse = Offers("rest", offer("rest:klines", 0, 100, 0.1, coarse=True))
    fine = Offers("archive", offer("archive:klines", 20, 40, 50))
    assert [step[:3] for step in plan(coarse, fine)] == [("rest", 0, 20), ("archive", 20, 40), ("rest", 40, 100)]


def test_what_no_dataset_names_is_not_asked_for() -> None:
    assert plan(Offers("rest", offer("rest:aggTrades", 0, 100, 1))) == []
    assert unoffered(CANDLES, []) == [CANDLES.span]


spans = st.tuples(st.integers(-10, 99), st.integers(1, 60)).map(lambda at: (at[0], at[0] + at[1]))


@given(
    archive=st.lists(st.tuples(spans, st.floats(0.1, 9)), max_size=4),
    rest=st.lists(st.tuples(spans, st.floats(0.1, 9), st.booleans()), max_size=4),
)
def test_steps_partition_what_is_offered_of_what_is_wanted(
    archive: list[tuple[tuple[int, int], float]], rest: list[tuple[tuple[int, int], float, bool]]
) -> None:
    given_offers = [offer("archive:klines", *span, seconds) for span, seconds in archive]
    given_offers += [offer("rest:klines", *span, seconds, coarse=coarse) for span, seconds, coarse in rest]
    steps = by_cost([Offers("any", *given_offers)], CANDLES, 0)
    found = [step.offer.span for step in steps]
    assert found == sorted(found)
    assert union(found) == intersection([CANDLES.span], [one.span for one in given_offers])
    assert sum(one.end_ms - one.start_ms for one in found) == sum(one.end_ms - one.start_ms for one in union(found))
    assert difference([CANDLES.span], found) == unoffered(CANDLES, steps)
    for step in steps:
        rate = step.offer.seconds / (step.offer.span.end_ms - step.offer.span.start_ms)
        others = [one for one in given_offers if one.span.holds(step.offer.span.start_ms) and one.coarse <= step.offer.coarse]  # fmt: skip
        assert all(rate <= one.seconds / (one.span.end_ms - one.span.start_ms) + 1e-9 for one in others if one.coarse == step.offer.coarse)  # fmt: skip
        assert not any(one.coarse < step.offer.coarse for one in others), "nothing coarse where something finer is"
