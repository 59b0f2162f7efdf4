"""Tables of the archive in every form they were seen in: what differs is found by looking, what is broken is refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.adapters.binance import archive_table
from data_manager.adapters.binance.archive_files import INDEX_PRICES, KINDS, File, files, month_of
from data_manager.adapters.binance.archive_read import fetched, read_whole, short_days
from data_manager.adapters.binance.archive_rows import LAYOUTS, unit_of
from data_manager.adapters.binance.archive_table import Table
from data_manager.adapters.binance.archive_taking import Taken
from data_manager.domain.batch import Batch, pack
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt
from data_manager.domain.events import Candle, Number
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, parse_time
from data_manager.ports.source import Offer, Wanted
from data_manager.services.backfilling.lacking import lacking

DAY = parse_time("2026-03-04")
SPAN = Span(DAY, DAY + DAY_MS)


def zipped(folder: Path, text: str | bytes, *more: str) -> Path:
    path = folder / "table.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("table.csv", *more):
            archive.writestr(name, text)
    return path


def taken(folder: Path, text: str, call: str = "archive:aggTrades", market: str = "um", dataset: str = "agg_trade") -> Taken:  # fmt: skip
    """The file of one day with that table, taken from the disk."""
    interval = "1h" if dataset == "candle" else None
    file = File(KINDS[call], Series(market, dataset, "BTCUSDT", interval), SPAN, is_day=True)
    table = Table(zipped(folder, text), file.name, LAYOUTS[file.kind.folder])
    return Taken(file, table, table.survey(file.accepts), DAY + 2 * DAY_MS, {"sha256": "0" * 64})


def rows(folder: Path, text: str, **how: Any) -> list[dict[str, Any]]:
    return read_whole(taken(folder, text, **how), SPAN, "job:1").packed.batch.rows()


def line(number: int, *, at_ms: int = DAY, price: str = "64000.1", quantity: str = "0.25", maker: str = "true") -> str:
    return f"{number},{price},{quantity},{number * 2},{number * 2 + 1},{at_ms},{maker}\n"


HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"


@pytest.mark.parametrize("header", ["", HEADER])
@pytest.mark.parametrize("words", [("true", "false"), ("True", "False")])
@pytest.mark.parametrize("per_ms", [1, 1_000])
@pytest.mark.parametrize("more", ["", ",true"])  # spot: was it the best price match
def test_every_dialect_gives_the_same_rows(tmp_path: Path, header: str, words: tuple[str, str], per_ms: int, more: str) -> None:  # fmt: skip
    lines = [line(7, at_ms=DAY * per_ms + 5, maker=words[0]), line(8, at_ms=(DAY + 9) * per_ms, maker=words[1])]
    text = header.replace("\n", f"{',is_best_match' if more else ''}\n") + "".join(one.replace("\n", f"{more}\n") for one in lines)  # fmt: skip
    found = rows(tmp_path, text)
    first_ms = DAY + (5 if per_ms == 1 else 0)
    assert [(row["agg_id"], row["traded_ms"], row["buyer_is_maker"]) for row in found] == [
        (7, first_ms, True), (8, DAY + 9, False),
    ]  # fmt: skip
    assert found[0]["origin"] == "job:1 BTCUSDT-aggTrades-2026-03-04.zip"
    assert found[0]["event_ms"] is None
    assert found[0]["plain_quantity"] is None


def test_numbers_keep_their_text_and_never_pass_through_a_float(tmp_path: Path) -> None:
    texts = ["83624.5", "83624.50", "1e-05", "1.5E+3", "123456789012345678901.123456789", "0.1", "9007199254740993"]
    found = rows(tmp_path, "".join(line(number, price=text) for number, text in enumerate(texts)))
    assert [row["price"] for row in found] == texts


def test_trades_of_no_quantity_are_kept_and_doubles_are_one(tmp_path: Path) -> None:
    """Some hundred thousand aggregates of ETHUSDT have a quantity of 0 (2023-05); the ids are true."""
    found = taken(tmp_path, line(1, quantity="0") + line(2) + line(2) + line(3))
    packed = read_whole(found, SPAN, "").packed
    assert packed.batch.key.tolist() == [1, 2, 3]
    assert packed.repeated == 1


def test_broken_lines_are_refused_one_by_one(tmp_path: Path) -> None:
    text = HEADER + "".join((
        line(1), line(2, price=""), line(3, price="abc"), line(4, quantity="-1"), line(5, maker="yes"),
        line(6).replace("12,13", "12.5,"), "7,1,1\n", line(8, price="0"), line(9),
    ))  # fmt: skip
    found = taken(tmp_path, text)
    whole = read_whole(found, SPAN, "")
    piece = fetched(SPAN, whole.packed, found, whole.survey)
    assert piece.rows.key.tolist() == [1, 9]
    assert sorted((str(one.why.field), str(one.why.value)) for one in piece.refused) == [
        ("buyer_is_maker", "yes"), ("first_trade_id", "12.5"), ("price", ""), ("price", "0"), ("price", "abc"),
        ("quantity", "-1"),
    ]  # fmt: skip
    assert "agg_trade BTCUSDT 3: price 'abc': must be a decimal number" in " ".join(str(one.why) for one in piece.refused)  # fmt: skip
    assert piece.evidence["unread"] == 1, "the line with three columns"
    assert piece.broken == piece.evidence["refused"] == 7


def test_rows_of_another_day_are_not_this_files(tmp_path: Path) -> None:
    """Every other row from another date was seen; so was a time that is none."""
    text = "".join(line(number, at_ms=DAY + number - (5 * DAY_MS if number % 2 else 0)) for number in range(10))
    found = taken(tmp_path, text + line(99).replace(str(DAY), "soon"))
    whole = read_whole(found, SPAN, "")
    piece = fetched(SPAN, whole.packed, found, whole.survey)
    assert piece.rows.key.tolist() == [0, 2, 4, 6, 8]
    assert piece.evidence["outside"] == 6
    assert [str(one.why) for one in piece.refused] == [
        f"traded_ms '{DAY + 1 - 5 * DAY_MS}': must lie in the span of its file, {SPAN.start_ms} to {SPAN.end_ms}"
    ]


def test_all_that_is_refused_is_counted_and_is_no_proof_of_absence(tmp_path: Path) -> None:
    """A hundred are told one by one; of a file whose times are off, one."""
    found = taken(tmp_path, "".join(line(number, price="-1") for number in range(250)) + line(250))
    whole = read_whole(found, SPAN, "")
    piece = fetched(SPAN, whole.packed, found, whole.survey)
    assert (len(piece.refused), piece.broken) == (100, 250)

    opens = [SPAN.start_ms - DAY_MS + hour * HOUR_MS for hour in range(24)]  # the day before, in this day's file
    text = "".join(f"{at},1,1,1,1,1,{at + HOUR_MS - 1},1,1,1,1,0\n" for at in opens)
    found = taken(tmp_path, text, call="archive:klines", dataset="candle")
    whole = read_whole(found, SPAN, "")
    piece = fetched(SPAN, whole.packed, found, whole.survey)
    assert (len(piece.refused), piece.broken) == (1, 24)
    wanted = Wanted(series=found.file.series, span=SPAN)
    offer = Offer(call="archive:klines", span=SPAN, seconds=1.0)
    [absent] = lacking(wanted.series, wanted, offer, piece, None, DAY + 30 * DAY_MS).absent
    assert (absent.missing, absent.doubt) == (24, "archive:klines gave 24 rows that break a rule")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"1,2,3\n", "3 columns, 7 are needed"),
        (b"1,64000.1,1,2,3,17725824,true\n", "no time of our age"),
        (b"\xff\xfe\x00\x01", "columns"),
    ],
)
def test_what_is_no_such_table_is_corrupt(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(Corrupt, match=why):
        Table(zipped(tmp_path, content), "table.zip", LAYOUTS["aggTrades"])


def test_what_is_no_such_zip_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="2 files"):
        Table(zipped(tmp_path, line(1), "second.csv"), "table.zip", LAYOUTS["aggTrades"])
    path = zipped(tmp_path, "".join(line(number) for number in range(50_000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="cannot be read as published"):
        Table(path, "table.zip", LAYOUTS["aggTrades"]).survey(SPAN)
    path.write_bytes(b"<html>")
    with pytest.raises(Corrupt, match="cannot be read as published"):
        Table(path, "table.zip", LAYOUTS["aggTrades"])


@pytest.mark.parametrize("text", ["", "\n", HEADER])
def test_a_file_without_a_row_has_none(tmp_path: Path, text: str) -> None:
    assert rows(tmp_path, text) == []


@pytest.mark.parametrize(
    "before", ["\n\n", ",,,,,,\n", line(7).replace(str(DAY), "soon")], ids=["blank", "bare", "wrong"]
)
def test_a_first_line_that_says_nothing_does_not_make_a_file_empty(tmp_path: Path, before: str) -> None:
    assert [row["agg_id"] for row in rows(tmp_path, HEADER + before + line(1) + line(2))] == [1, 2]


@settings(max_examples=25, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0, 0, 1, 7, 40_000]), min_size=1, max_size=60),
    shuffle=st.randoms(use_true_random=False),
    ordered=st.booleans(),
    cuts=st.tuples(st.integers(0, 120_000), st.integers(1, 400_000)),
)
def test_stretches_partition_what_is_wanted_in_any_order_of_rows(tmp_path_factory: pytest.TempPathFactory, gaps: list[int], shuffle: Any, ordered: bool, cuts: tuple[int, int]) -> None:  # fmt: skip
    """Small blocks and stretches stand for large files: every row comes once, in the piece that holds its instant."""
    folder = tmp_path_factory.mktemp("stretches")
    times = (DAY + np.cumsum(gaps)).tolist()
    lines = [line(number, at_ms=at_ms) for number, at_ms in enumerate(times)]
    if not ordered:
        shuffle.shuffle(lines)
    found = taken(folder, "".join(lines))
    wanted = Span(DAY + cuts[0], DAY + cuts[0] + cuts[1])
    kept = archive_table._BLOCK_BYTES, archive_table._STRETCH_ROWS
    archive_table._BLOCK_BYTES, archive_table._STRETCH_ROWS = 300, 7  # type: ignore[misc]
    try:
        assert found.survey is not None
        parts = list(found.table.stretches(wanted, found.survey, SPAN))
    finally:
        archive_table._BLOCK_BYTES, archive_table._STRETCH_ROWS = kept  # type: ignore[misc]
    edges = [part.start_ms for part, _ in parts] + [parts[-1][0].end_ms]
    assert edges == sorted(set(edges))
    assert (edges[0], edges[-1]) == (wanted.start_ms, wanted.end_ms)
    ids = []
    for part, lines_of in parts:
        moments = found.table.times(lines_of).tolist()
        assert all(part.holds(moment) for moment in moments)
        ids += [int(text) for text in lines_of[0].to_pylist()]
    assert sorted(ids) == [number for number, at_ms in enumerate(times) if wanted.holds(at_ms)]


def test_a_large_file_out_of_order_is_read_by_stretches(tmp_path: Path) -> None:
    """300,000 rows, every other one from the other half of the day."""
    count = 300_000
    order = np.arange(count).reshape(2, -1).T.ravel()
    at_ms = DAY + order * (DAY_MS // count)
    text = "".join(line(number, at_ms=moment) for number, moment in zip(order.tolist(), at_ms.tolist(), strict=True))
    found = taken(tmp_path, text)
    assert found.survey is not None
    assert not found.survey.ordered
    parts = list(found.table.stretches(SPAN, found.survey, SPAN))
    assert len(parts) == 2
    assert max(len(lines[0]) for _, lines in parts) < 260_000
    assert sum(len(lines[0]) for _, lines in parts) == count


def test_units_of_time_are_told_by_their_size() -> None:
    for per, value in ((1, DAY), (1_000, DAY * 1_000), (1_000_000, DAY * 1_000_000)):
        assert unit_of(value) == per
    assert [unit_of(value) for value in (0, 1_772_582_400, 17)] == [None, None, None]


def test_short_days_are_looked_for_near_what_is_there() -> None:
    """Listed on the third day of ten, delisted in the eighth; the fifth lacks a row."""
    series = Series("um", "candle", "BTCUSDT", "12h")
    days = [start for day in range(2, 8) for start in (day * 2, day * 2 + 1) if (day, start) not in ((4, 9), (7, 15))]
    batch = _candles(series, np.array(days) * DAY_MS // 2 + DAY)
    part = Span(DAY, DAY + 10 * DAY_MS)
    runs = [[(start - DAY) // DAY_MS for start in run] for run in short_days(batch, part, 2)]
    assert runs == [[1, 0], [4], [7], [8, 9]]
    assert short_days(batch.take(slice(0, 0)), part, 2) == [[DAY + day * DAY_MS for day in range(10)]]
    assert short_days(batch, Span(DAY + 1, DAY + DAY_MS), 2) == [], "no whole day is wanted"


def _candles(series: Series, opens: Any) -> Batch:
    events = [
        Candle(
            symbol=series.symbol, interval=series.interval or "", open_ms=int(at_ms), open=Number("1"), high=Number("1"), low=Number("1"),
            close=Number("1"), volume=Number("1"), close_ms=int(at_ms) + 43_199_999, closed=True,
        )
        for at_ms in opens
    ]  # fmt: skip
    return pack(DATASETS["candle"], "um", events, [DAY] * len(events), "job:1").batch


def test_names_of_files_are_the_venues() -> None:
    def path(call: str, series: Series, *, is_day: bool = True) -> str:
        span = SPAN if is_day else month_of(KINDS[call], series, DAY).span
        return File(KINDS[call], series, span, is_day).path

    month = Series("um", "candle", "BTCUSDT", "1M")
    assert path("archive:klines", month, is_day=False) == "/data/futures/um/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2026-03.zip"  # fmt: skip
    minute = Series("spot", "candle", "币安人生USDT", "1m")
    assert path("archive:klines", minute) == "/data/spot/daily/klines/币安人生USDT/1m/币安人生USDT-1m-2026-03-04.zip"
    trades = Series("cm", "trade", "BTCUSD_PERP")
    assert path("archive:trades", trades) == "/data/futures/cm/daily/trades/BTCUSD_PERP/BTCUSD_PERP-trades-2026-03-04.zip"  # fmt: skip
    funding = Series("um", "funding_rate", "BTCUSDT")
    assert path("archive:fundingRate", funding, is_day=False) == "/data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-03.zip"  # fmt: skip
    mark = File(INDEX_PRICES, Series("um", "mark_price", "BTCUSDT_260327"), SPAN, is_day=True)
    assert mark.path == "/data/futures/um/daily/indexPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2026-03-04.zip"
    assert files(KINDS["archive:fundingRate"], Series("spot", "funding_rate", "BTCUSDT"), SPAN, DAY + 99 * DAY_MS) == []
