"""A store that is about to be full lets the least valuable streams go, loudly, and keeps the rest."""

from pathlib import Path

from data_manager.domain.dataset import Dataset
from data_manager.ports import StoreSizes
from data_manager.services.ingesting.buffer import Rows
from data_manager.services.ingesting.shedding import ORDER, Shedding
from tests.conftest import eventually
from tests.flow.test_ingest import Desk, ticker, trade
from tests.flow.test_inspect import TRADE
from tests.servers import own_server
from tests.service import Service, feed, running

TICKER = (
    b'{"e":"bookTicker","u":%d,"s":"BTCUSDT","b":"1.5","B":"1","a":"2","A":"1","T":1680652700452,"E":1680652700455}'
)


def shedding(bytes_max: int, told: list[tuple[str, int]] | None = None) -> Shedding:
    def let_go(dataset: Dataset, rows: Rows) -> None:
        (told if told is not None else []).append((dataset.name, len(rows.events)))

    return Shedding(bytes_max, let_go)


def test_streams_go_one_by_one_and_come_back_when_there_is_clearly_room() -> None:
    one = shedding(1_000)
    seen = []
    for used in (0, 899, 900, 921, 979, 980, 2_000, 950, 931, 929, 870, 849, 0):
        one.look(StoreSizes(storage_bytes=used))
        seen.append((used, len(one.names)))
    assert seen == [
        (0, 0), (899, 0), (900, 1), (921, 2), (979, 6), (980, 7), (2_000, 7), (950, 7), (931, 7), (929, 6), (870, 2),
        (849, 0), (0, 0),
    ]  # fmt: skip
    least_first = ["book_ticker", "depth_update", "depth", "ticker", "mark_price", "agg_trade", "trade"]
    assert sorted(ORDER, key=ORDER.__getitem__) == least_first
    assert not {"candle", "funding_rate", "liquidation"} & ORDER.keys()


def test_what_is_not_known_and_what_has_no_bound_sheds_nothing_new() -> None:
    unbounded = shedding(0)
    unbounded.look(StoreSizes(storage_bytes=10**15))
    assert unbounded.names == frozenset()
    bounded = shedding(100)
    bounded.look(StoreSizes(storage_bytes=10, index_bytes=81))
    bounded.look(None)
    assert bounded.names == {"book_ticker"}


async def test_what_is_shed_is_counted_as_dropped_and_acknowledged() -> None:
    told: list[tuple[str, int]] = []
    one = shedding(100, told)
    one.look(StoreSizes(storage_bytes=91))
    desk = Desk([[trade(1), ticker(7), ticker(8)], [trade(2)]])
    desk.also_safe = lambda delivery: b"bookTicker" in delivery.payload
    desk.shed = one.take
    await desk.run()
    assert desk.store_keys == {trade(1), trade(2)}
    assert told == [("book_ticker", 2)]
    assert (desk.tally.dropped, desk.tally.total_received(), desk.tally.missing()) == (2, 4, 0)
    assert desk.tally.in_flight == 0
    assert sorted(desk.acked) == ["0", "1", "2", "3"]


async def test_the_running_service_sheds_and_says_so(tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path, nats_url=server.url, store_bytes_max=60_000)
        async with running(service):
            await feed(server.url, service, [TRADE % (number, b"28145.10") for number in range(1, 5)])

            def sheds() -> bool:
                return "book_ticker" in (service.page("/health/databases")["databases"]["rows"]["shed"] or ())

            await feed(server.url, service, [TICKER % number for number in range(1, 2_000)])
            await eventually(sheds, within_s=30, what="shedding")
            before = service.figures()  # where it is slow, some of the first were let go already
            await feed(server.url, service, [TICKER % number for number in range(5_000, 5_100)])
            figures = service.figures()
            figures.require_law()
            assert figures.of("rows_new_total") == before.of("rows_new_total")
            assert figures.of("events_dropped_total") == before.of("events_dropped_total") + 100
            assert figures.of("shed", dataset="book_ticker") == 1
            await eventually(
                lambda: '"kind": "shed", "series": "um.book_ticker.BTCUSDT"' in service.said(), what="finding"
            )
