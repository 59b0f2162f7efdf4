"""One content hash in every store, and the one a stranger computes by the program that docs/certificates.md prints."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.mongo.store import open_mongo
from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.batch import STREAM, Batch, pack
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.events import Depth, Event, Metric, Number
from data_manager.domain.proof.canonical import facts
from data_manager.domain.proof.certificate import Certificate
from data_manager.domain.proof.locate import Mismatch
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS
from data_manager.ports import SeriesStore
from data_manager.services.conditions import Conditions
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.verify import verify
from tests.contract.rows import BASE_MS, candle, depth_update, liquidation, trade
from tests.memory import MemoryStore

NOW_MS = BASE_MS + 400 * DAY_MS
STORES = ("memory", "embedded", "embedded, folding at every flush", "mongodb")


def metric(number: int) -> Metric:
    return Metric(
        symbol="BTCUSDT", interval="1h", as_of_ms=BASE_MS + number // 4, metric="m", method=f"x{number % 2}", window="1d" if number % 4 > 1 else "7d",
        value=None if number % 3 == 0 else number / 7 - 1, inputs_have=number, inputs_need=9,
    )  # fmt: skip


def depth(number: int) -> Depth:
    bids = [(Number(f"{100 - step}.50"), Number("1e-3")) for step in range(number % 3)]
    asks = [(Number("123456789012345678901.5"), Number("0.10"))] * (number % 2)
    return Depth(symbol="BTCUSDT", update_id=number, event_ms=BASE_MS + number, bids=bids, asks=asks, clock="publisher")


def odd_trade(number: int) -> Event:
    return trade(number, price=["1.50", "007", "1e-5", "1.0", "98765432109876543210.120"][number % 5])


def orders(number: int) -> Event:
    """Several in one millisecond."""
    return liquidation(number // 5, quantity=str(number % 5 + 1), side="SELL" if number % 2 else "BUY")


MAKERS: list[Callable[[int], Event]] = [odd_trade, candle, depth_update, depth, orders, metric]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SeriesStore]:
    opened: SeriesStore = MemoryStore()
    if request.param.startswith("embedded"):
        fold_at = FoldAt(rows=1) if "folding" in request.param else FoldAt()
        opened = EmbeddedStore(tmp_path, 1 << 20, fold_at)
    if request.param == "mongodb":
        opened = await open_mongo(request.getfixturevalue("mongo_access"))
    yield opened
    await opened.close()


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    yield one
    await one.close()


class Still:
    """A clock that stands."""

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return NOW_MS / 1_000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits")


@pytest.fixture(scope="module")
def stranger() -> dict[str, Any]:
    """The program of the page, as it is printed there."""
    page = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    return names


def certifier(store: SeriesStore, meta: SqlMetaStore, rows: int = 7) -> Certifier:
    return Certifier(store, meta, Conditions(meta, Still()), Still(), page_rows=rows)


async def hold(store: SeriesStore, events: Sequence[Event]) -> Batch:
    """Append them in three parts, the last one first."""
    batch = pack(BY_EVENT[type(events[0])], "um", events, [BASE_MS + 10**9] * len(events), STREAM).batch
    third = len(batch) // 3
    for part in (slice(2 * third, len(batch)), slice(0, third), slice(third, 2 * third)):
        await store.append(batch.take(part))
    return batch


@pytest.mark.parametrize("make", MAKERS)
async def test_a_stranger_gets_the_same_hash_from_any_store(
    store: SeriesStore, meta: SqlMetaStore, stranger: dict[str, Any], make: Callable[[int], Event]
) -> None:
    batch = await hold(store, [make(number) for number in range(1, 61)])
    dataset, [series] = batch.dataset, batch.series
    issued = await certifier(store, meta).certify(series, Span(BASE_MS, NOW_MS))
    fields = [(one.name, one.kind.value, one.optional) for one in facts(dataset)]
    key, rows = dataset.key[0], batch.rows()
    assert issued.contents.rows == 60
    assert issued.contents.content == stranger["content"](fields, key, rows)
    printed = msgspec.json.decode(msgspec.json.encode(issued))
    contents = printed["contents"]
    assert contents["blocks"] == stranger["blocks"](fields, key, rows, contents["block_keys"])
    assert issued.id == stranger["certificate_id"](printed)
    proof = await verify(store, meta, issued, Still(), page_rows=11)
    assert proof.holds
    assert proof.rows == 60


async def test_nothing_has_a_hash_too(store: SeriesStore, meta: SqlMetaStore, stranger: dict[str, Any]) -> None:
    batch = await hold(store, [trade(number) for number in range(1, 9)])
    issued = await certifier(store, meta).certify(batch.series[0], Span(BASE_MS - 9, BASE_MS))
    assert issued.contents.rows == 0
    assert issued.contents.content == stranger["content"]([("trade_id", "int", False)], "trade_id", [])
    assert issued.condition == {"unverified": 9}


async def test_a_row_that_went_or_came_is_named_by_any_store(store: SeriesStore, meta: SqlMetaStore) -> None:
    batch = await hold(store, [trade(2 * number) for number in range(1, 40)])
    [series], span = batch.series, Span(BASE_MS, NOW_MS)
    issued: Certificate = await certifier(store, meta).certify(series, span)
    assert await store.drop(series, Span(BASE_MS + 200, BASE_MS + 201)) == 1
    gone = await verify(store, meta, issued, Still())
    assert (gone.status, gone.mismatches) == ("differs", (Mismatch("missing", 20, 20, 1),))
    await hold(store, [trade(20), trade(21)])
    came = await verify(store, meta, issued, Still())
    assert (came.status, came.mismatches) == ("differs", (Mismatch("unexpected", 21, 21, 1),))


async def test_rows_that_changed_at_once_are_told_apart(meta: SqlMetaStore) -> None:
    """Of what somebody asked to be certified: each row by itself, also neighbours. What the service certifies has larger blocks."""
    store = MemoryStore()
    [series] = (await hold(store, [trade(number) for number in range(1, 301)])).series
    span = Span(BASE_MS, NOW_MS)
    issued = await certifier(store, meta).certify(series, span)
    [healed] = await certifier(store, meta).healed(series, span)
    for number in (7, 8, 200):
        await store.drop(series, Span(BASE_MS + 10 * number, BASE_MS + 10 * number + 1))
    proof = await verify(store, meta, issued, Still())
    assert [(one.kind, one.first_key, one.rows) for one in proof.mismatches] == [
        ("missing", 7, 1), ("missing", 8, 1), ("missing", 200, 1),
    ]  # fmt: skip
    assert [one.kind for one in (await verify(store, meta, healed, Still())).mismatches] == ["block"]
    await store.drop(series, Span(BASE_MS + 1_000, BASE_MS + 1_300))
    proof = await verify(store, meta, issued, Still())
    assert [(one.kind, one.first_key, one.last_key, one.rows) for one in proof.mismatches] == [
        ("missing", 7, 7, 1), ("missing", 8, 8, 1), ("missing", 100, 129, 30), ("missing", 200, 200, 1),
    ], "what went together is told together"  # fmt: skip


async def test_a_candle_is_certified_to_its_end(meta: SqlMetaStore) -> None:
    store = MemoryStore()
    [series] = (await hold(store, [candle(number) for number in range(9)])).series
    assert await certifier(store, meta).span_of(series, None, None) == Span(BASE_MS, BASE_MS + 9 * 60_000)
