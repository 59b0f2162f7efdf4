"""Recordings as the source: their streams byte for byte, their trades as REST has them, and nothing invented."""

import gzip
import json
from pathlib import Path

import pytest

from data_manager.domain.errors import BadQuery, Corrupt, NotFound
from data_manager.simulator.app import Exchange, Plan
from data_manager.simulator.recorded import read
from tests.conftest import eventually
from tests.simulator.exchange import HandClock, running
from tests.truth import Line, lines_of, path_of


def of_stream(lines: list[Line], name: str) -> list[bytes]:
    return [line.bare for line in lines if f'"stream":"{name}"'.encode() in line.message[:80].replace(b": ", b":")]


async def test_streams_are_replayed_byte_for_byte(recordings: Path) -> None:
    file = path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")
    lines = list(lines_of(file))
    async with running(recordings=(file,), start_ms=None) as exchange:
        names = ["sushiusdt@depth@100ms", "sushiusdt@bookTicker"]
        async with exchange.socket("/public/ws/" + "/".join(names)) as socket:
            await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
            for _ in range(40):
                await exchange.forward(1)
            heard = [
                await socket.recv(decode=False) for _ in range(sum(len(of_stream(lines, name)) for name in names) - 1)
            ]
    for name in names:
        wanted = of_stream(lines, name)
        found = [payload for payload in heard if payload in set(wanted)]
        assert len(found) >= len(wanted) - 1
        assert found[-1] == wanted[-1]


def test_trades_and_candles_are_those_of_the_recording(recordings: Path) -> None:
    file = path_of(recordings, "um", "2023-04-05_btcusdt_part1")
    lines = [line.data for line in lines_of(file) if line.data["e"] == "trade"]
    clock = HandClock()
    exchange = Exchange(Plan(recordings=(file,)), clock)
    clock.at_s = 300

    def ask(path: str, **params: object) -> list:
        raw = exchange.rest.answer(f"/fapi/v1/{path}", {name: str(value) for name, value in params.items()}, {"x-mbx-apikey": "k"}, "a")  # fmt: skip
        return json.loads(raw.body)

    market = [line for line in lines if line["X"] == "MARKET"]
    trades = ask("trades", symbol="BTCUSDT", limit=1_000)
    assert [(row["id"], row["price"], row["qty"], row["time"]) for row in trades] == [
        (line["t"], line["p"], line["q"], line["T"]) for line in market[-1_000:]
    ]
    candles = ask("klines", symbol="BTCUSDT", interval="1m")
    assert len(candles) == 3
    for row in candles:
        inside = [line for line in market if row[0] <= line["T"] <= row[6]]
        prices = [float(line["p"]) for line in inside]
        assert [float(text) for text in row[1:5]] == [prices[0], max(prices), min(prices), prices[-1]]
        assert row[8] == len(inside)
    assert ask("premiumIndex", symbol="BTCUSDT") == {"code": -5000, "msg": "Path /fapi/v1/premiumIndex, Method GET is invalid"}  # fmt: skip


async def test_there_are_no_archives_of_a_recording(recordings: Path) -> None:
    file = path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")
    async with running(recordings=(file,), start_ms=None) as exchange:
        path = "/data/futures/um/daily/trades/CTKUSDT/CTKUSDT-trades-2021-07-22.zip"
        assert (await exchange.get(path)).status_code == 404


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        read([tmp_path / "nowhere"])
    (tmp_path / "text").write_text('{"recv_ns":1,"msg":{}}\n')
    with pytest.raises(Corrupt, match="line 1"):
        read([tmp_path / "text"])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b'{"recv_ns":1}' * 1_000)[:-10])
    with pytest.raises(Corrupt):
        read([tmp_path / "cut.gz"])
    (tmp_path / "empty").write_text("")
    with pytest.raises(BadQuery):
        read([tmp_path / "empty"])
