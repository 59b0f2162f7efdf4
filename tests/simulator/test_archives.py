"""Archives: the paths, the checksums, the header that came later, the morning after; and every way they are wrong."""

import hashlib
import io
import zipfile
from typing import Any

import pytest

from data_manager.domain.time import parse_time
from tests.simulator.exchange import DAY, HOUR, MINUTE, NOW, Running, running

ROOT = "/data/futures/um"
KLINES = f"{ROOT}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-03-04.zip"
AGGREGATES = f"{ROOT}/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2026-03-04.zip"
START = parse_time("2026-03-04")


async def zipped(exchange: Running, path: str) -> bytes:
    answer = await exchange.get(path)
    assert answer.status_code == 200, answer.text
    return answer.content


async def lines(exchange: Running, path: str) -> list[list[str]]:
    """The rows of a file, which its checksum has to fit; the header first where there is one."""
    content = await zipped(exchange, path)
    told = (await exchange.get(f"{path}.CHECKSUM")).text
    name = path.rsplit("/", 1)[1]
    assert told == f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [name.replace(".zip", ".csv")]
        return [line.split(",") for line in archive.read(archive.namelist()[0]).decode().split("\n")[:-1]]


def numbers(rows: Any) -> list[list[float]]:
    return [[float({"true": 1, "false": 0}.get(text, text)) for text in row] for row in rows]


async def truth(exchange: Running, path: str, **params: Any) -> Any:
    return await exchange.rows(f"/control/truth/fapi/v1/{path}", limit=10**6, **params)


async def test_candles_of_a_day_are_those_of_rest() -> None:
    async with running() as exchange:
        head, *rows = await lines(exchange, KLINES)
        assert head[:3] == ["open_time", "open", "high"]
        rest = await truth(
            exchange, "klines", symbol="BTCUSDT", interval="1m", startTime=START, endTime=START + DAY - 1
        )
        assert rows == [[str(field) for field in row] for row in rest]
        assert len(rows) == 1_440


async def test_mark_price_candles_of_a_day_are_those_of_rest() -> None:
    async with running() as exchange:
        _, *rows = await lines(exchange, f"{ROOT}/daily/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2026-03-04.zip")
        rest = await truth(exchange, "markPriceKlines", symbol="BTCUSDT", interval="1h", startTime=START, endTime=START + DAY - 1)  # fmt: skip
        assert numbers(rows) == numbers(rest)


async def test_aggregates_and_trades_of_a_day_are_those_of_rest() -> None:
    async with running() as exchange:
        _, *rows = await lines(exchange, AGGREGATES)
        rest = await truth(exchange, "aggTrades", symbol="BTCUSDT", startTime=START, endTime=START + DAY - 1)
        assert numbers(rows) == [[*(float(row[name]) for name in "apqfl"), row["T"], row["m"]] for row in rest]
        assert not any(row[1].endswith("0") and "." in row[1] for row in rows)
        head, *trades = await lines(exchange, f"{ROOT}/daily/trades/BTCUSDT/BTCUSDT-trades-2026-03-04.zip")
        assert head == ["id", "price", "qty", "quote_qty", "time", "is_buyer_maker"]
        some = await truth(exchange, "historicalTrades", symbol="BTCUSDT", fromId=rest[0]["f"])
        for row, one in zip(trades[:1_000], some, strict=False):
            assert (int(row[0]), float(row[1]), float(row[2]), int(row[4])) == (one["id"], float(one["price"]), float(one["qty"]), one["time"])  # fmt: skip
        assert sum(round(float(row[2]) * 1_000) for row in trades) == sum(
            round(float(row["q"]) * 1_000) for row in rest
        )


async def test_a_month_is_its_days_and_funding_comes_by_the_month_only() -> None:
    async with running("ALGOUSDT", "SOLUSDT") as exchange:
        _, *month = await lines(exchange, f"{ROOT}/monthly/klines/ALGOUSDT/1h/ALGOUSDT-1h-2026-02.zip")
        days = []
        for day in range(1, 29):
            days += (await lines(exchange, f"{ROOT}/daily/klines/ALGOUSDT/1h/ALGOUSDT-1h-2026-02-{day:02}.zip"))[1:]
        assert month == days
        _, *funding = await lines(exchange, f"{ROOT}/monthly/fundingRate/SOLUSDT/SOLUSDT-fundingRate-2026-02.zip")
        first, end = parse_time("2026-02-01"), parse_time("2026-03-01")
        rest = await truth(exchange, "fundingRate", symbol="SOLUSDT", startTime=first, endTime=end - 1)
        assert [[row[0], row[2]] for row in funding] == [[str(one["fundingTime"]), one["fundingRate"]] for one in rest]
        assert {row[1] for row in funding} == {"4", "8"}
        daily = await exchange.get(f"{ROOT}/daily/fundingRate/SOLUSDT/SOLUSDT-fundingRate-2026-02-03.zip")
        assert daily.status_code == 404


async def test_metrics_are_there_by_the_day_and_say_what_rest_says_of_these_periods() -> None:
    path = f"{ROOT}/daily/metrics/BTCUSDT/BTCUSDT-metrics-2026-03-04.zip"
    async with running() as exchange:
        names, *rows = await lines(exchange, path)
        asked = {"symbol": "BTCUSDT", "period": "5m", "startTime": START, "endTime": START + DAY, "limit": 288}
        held = await exchange.rows("/futures/data/openInterestHist", **asked)
        ratios = await exchange.rows("/futures/data/topLongShortPositionRatio", **asked)
        assert (names[0], len(names), len(rows)) == ("create_time", 8, 288)
        assert (rows[0][0], rows[-1][0]) == ("2026-03-04 00:00:00", "2026-03-04 23:55:00")
        assert [row[2] for row in rows] == [one["sumOpenInterest"] for one in held]
        assert [row[5] for row in rows] == [one["longShortRatio"] for one in ratios]
        await exchange.fault("doubled", paths="*metrics*")
        assert [tuple(row) for row in (await lines(exchange, path))[1:]] == [tuple(row) for row in rows for _ in "ab"]
        assert (await exchange.get(path.replace("-03-04", "-02").replace("daily", "monthly"))).status_code == 404


async def test_months_of_months_are_in_their_own_folder() -> None:
    async with running() as exchange:
        _, row = await lines(exchange, f"{ROOT}/monthly/klines/BTCUSDT/1mo/BTCUSDT-1mo-2026-02.zip")
        assert int(row[0]) == parse_time("2026-02-01")
        assert (await exchange.get(f"{ROOT}/monthly/klines/BTCUSDT/1M/BTCUSDT-1M-2026-02.zip")).status_code == 404


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2021-12.zip", False),
        ("monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2022-01.zip", True),
        ("daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2022-08-10.zip", False),
        ("daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2022-08-11.zip", True),
    ],
)
async def test_the_header_came_later(path: str, header: bool) -> None:
    async with running() as exchange:
        rows = await lines(exchange, f"{ROOT}/{path}")
        assert rows[0][0].isdigit() != header


async def test_a_day_appears_the_next_morning_and_a_month_on_a_monday() -> None:
    today = f"{ROOT}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-03-05.zip"
    month = f"{ROOT}/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2026-03.zip"
    async with running() as exchange:
        assert (await exchange.get(f"{today}.CHECKSUM")).status_code == 404
        await exchange.forward((parse_time("2026-03-06T08:39:00Z") - NOW) / 1_000)
        assert (await exchange.get(today)).status_code == 404
        await exchange.forward(7 * 60)
        assert (await exchange.get(today)).status_code == 200
        await exchange.forward((parse_time("2026-04-05T12:00:00Z") - exchange.exchange.clock.now_ms()) / 1_000)
        assert (await exchange.get(month)).status_code == 404
        await exchange.forward(DAY / 1_000)
        assert (await exchange.get(month)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/daily/klines/BTCUSDT/1m/ETHUSDT-1m-2026-03-04.zip", f"{ROOT}/daily/klines/BTCUSDT/1s/BTCUSDT-1s-2026-03-04.zip",
        f"{ROOT}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-02-30.zip", f"{ROOT}/daily/nothing/BTCUSDT/BTCUSDT-nothing-2026-03-04.zip",
        f"{ROOT}/daily/trades/BTCUSDT/BTCUSDT-aggTrades-2026-03-04.zip", f"{ROOT}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2018-03-04.zip",
        f"{ROOT}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-03.zip", f"{ROOT}/daily/klines/AAVEUSD_PERP/1m/AAVEUSD_PERP-1m-2026-03-04.zip",
        f"{ROOT}/", "/data/spot/daily",
    ],
)  # fmt: skip
async def test_what_does_not_exist_is_404(path: str) -> None:
    async with running("BTCUSDT", "ETHUSDT", "AAVEUSD_PERP") as exchange:
        assert (await exchange.get(path)).status_code == 404


async def test_the_same_file_is_the_same_bytes() -> None:
    async with running() as one, running() as other:
        assert await zipped(one, AGGREGATES) == await zipped(other, AGGREGATES)


async def test_rows_can_be_missing_under_a_good_checksum_and_come_back_republished() -> None:
    async with running() as exchange:
        whole = await lines(exchange, KLINES)
        until = exchange.exchange.clock.now_ms() + HOUR
        await exchange.fault("missing", dataset="klines", where=["archive"], from_ms=START + HOUR, until_ms=START + 2 * HOUR, end_ms=until)  # fmt: skip
        holed = await lines(exchange, KLINES)
        assert len(whole) - len(holed) == 60
        assert [row for row in whole if row in holed] == holed
        rest = await exchange.rows("klines", symbol="BTCUSDT", interval="1m", startTime=START + HOUR, limit=60)
        assert len(rest) == 60
        assert rest[0][0] == START + HOUR
        await exchange.forward(3_600)
        assert await lines(exchange, KLINES) == whole


async def test_archives_can_be_altered_against_rest() -> None:
    async with running() as exchange:
        whole = await lines(exchange, KLINES)
        await exchange.fault("altered", dataset="klines", where=["archive"], from_ms=START, until_ms=START + 5 * MINUTE)
        now = await lines(exchange, KLINES)
        differing = [at for at, pair in enumerate(zip(whole, now, strict=True)) if pair[0] != pair[1]]
        assert differing == [1, 2, 3, 4, 5]
        assert {now[at][5] for at in differing} == {"0.000"}


@pytest.mark.parametrize("kind", ["interleaved", "doubled", "header"])
async def test_rows_can_be_out_of_order_or_doubled_and_the_header_unexpected(kind: str) -> None:
    async with running() as exchange:
        whole = await lines(exchange, AGGREGATES)
        await exchange.fault(kind, paths="*aggTrades-2026-03-04*")
        now = await lines(exchange, AGGREGATES)
        if kind == "header":
            assert now == whole[1:]
            return
        assert now != whole
        assert now[0] == whole[0]
        unique = {tuple(row) for row in now[1:]}
        assert unique == {tuple(row) for row in whole[1:]}
        assert len(now) - 1 == len(unique) * (2 if kind == "doubled" else 1)


async def test_a_checksum_can_be_wrong_a_zip_cut_a_day_absent_a_page_instead() -> None:
    async with running() as exchange:
        whole = await zipped(exchange, KLINES)
        good = (await exchange.get(f"{KLINES}.CHECKSUM")).text
        await exchange.fault("checksum", paths="BTCUSDT-1m-*")
        assert (await exchange.get(f"{KLINES}.CHECKSUM")).text != good
        assert await zipped(exchange, KLINES) == whole
        await exchange.mend()
        await exchange.fault("cut", paths="BTCUSDT-1m-*")
        cut = await zipped(exchange, KLINES)
        assert whole.startswith(cut)
        assert len(cut) < len(whole)
        assert (await exchange.get(f"{KLINES}.CHECKSUM")).text == good
        await exchange.mend()
        await exchange.fault("absent", paths="*2026-03-04*")
        assert (await exchange.get(KLINES)).status_code == 404
        assert (await exchange.get(f"{KLINES}.CHECKSUM")).status_code == 404
        await exchange.mend()
        await exchange.fault("page", paths="*/klines/*")
        answer = await exchange.get(KLINES)
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/html")
