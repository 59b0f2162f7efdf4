"""Bad input of every sort, given to the real process: each gets a clear answer that names the fix, nothing is lost."""

import asyncio
import json
import random
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.servers import free_port
from tests.service import (
    Service,
    bare_environment,
    dead_letters,
    feed,
    running,
    running_for_many,
)
from tests.truth import Line, lines_of, path_of, rows_of
from tests.warm import run


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """2021-07-22_sushi-akro-keep-ctk: the good stream that bad messages are mixed into."""
    return list(lines_of(path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A bus that takes messages of 16 MB, so that ours are not stopped before they reach us."""
    one = NatsServer(tmp_path_factory.mktemp("nats"), port=0, config="max_payload: 16MB")
    asyncio.run(one.start())
    yield one
    asyncio.run(one.stop())


@pytest.fixture(scope="module")
def service(server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service for the tests that only ask it."""
    with running_for_many(Service(tmp_path_factory.mktemp("service"), nats_url=server.url)) as one:
        yield one


# ---- on the bus ------------------------------------------------------------------------------------------------------


class Bad(NamedTuple):
    """A payload, and the dead letters it has to become: reason, field, and words of the message."""

    payload: bytes
    reason: str
    field: str | None
    says: str
    letters: int = 1


def _trade(**changed: Any) -> bytes:
    fields = {
        "e": "trade", "E": 1_680_652_700_000, "T": 1_680_652_700_000, "s": "BADUSDT", "t": 1, "p": "28000.10", "q": "0.5",
        "X": "MARKET", "m": True,
    }  # fmt: skip
    return _without_none({**fields, **changed})


def _kline(**changed: Any) -> bytes:
    k = {
        "t": 1_680_652_680_000, "T": 1_680_652_739_999, "s": "BADUSDT", "i": "1m", "f": 1, "L": 2, "o": "10", "c": "10",
        "h": "10", "l": "10", "v": "1", "n": 2, "x": True, "q": "10", "V": "1", "Q": "10", "B": "0", **changed,
    }  # fmt: skip
    return json.dumps({"e": "kline", "E": 1_680_652_740_010, "s": "BADUSDT", "k": k}).encode()


def _without_none(fields: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def _framed(data: bytes) -> bytes:
    return b'{"stream":"badusdt@trade","data":' + data + b"}"


NOISE = random.Random(7).randbytes
BAD = {
    "random bytes": Bad(NOISE(400), "undecodable", None, "UTF-8"),
    "nothing": Bad(b"", "undecodable", None, ""),
    "invalid UTF-8": Bad(_trade(s="BADUSDT", extra="x").replace(b'"x"', b'"\xff\xfe"'), "undecodable", None, "UTF-8"),
    "cut off": Bad(_trade()[:-7], "undecodable", None, "JSON"),
    "bomb of arrays": Bad(b"[" * 200_000, "undecodable", None, ""),
    "bomb of objects": Bad(b'{"data":' * 100_000 + b"1" + b"}" * 100_000, "undecodable", None, ""),
    "bomb in a field": Bad(_trade(x=0).replace(b'"x": 0', b'"x": ' + b"[" * 50_000 + b"]" * 50_000), "undecodable", None, "deep"),
    "garbage of 1 MiB": Bad(NOISE(1 << 20), "undecodable", None, ""),
    "garbage of 10 MB": Bad(NOISE(10_000_000), "undecodable", None, "10000000 bytes"),
    "a good trade with 10 MB of blanks": Bad(_trade() + b" " * 10_000_000, "undecodable", None, "bytes"),
    "NaN as a literal": Bad(_trade().replace(b'"28000.10"', b"NaN"), "undecodable", None, "JSON"),
    "NaN as text": Bad(_trade(t=2, p="NaN"), "invalid", "p", "decimal number"),
    "infinity": Bad(_trade(t=3, q="Infinity"), "invalid", "q", "decimal number"),
    "a price of 40 digits": Bad(_trade(t=4, p="1" * 40), "invalid", "p", "digits"),
    "a price with an exponent bomb": Bad(_trade(t=5, p="1e999999999"), "invalid", "p", "decimal number"),
    "a price that is a number": Bad(_framed(_trade(t=6, p=28000.1)), "invalid", "data.p", "text"),
    "a negative price": Bad(_trade(t=7, p="-1.5"), "invalid", "p", "above 0"),
    "a price of 0 that is no placeholder": Bad(_trade(t=8, p="0"), "invalid", "p", "above 0"),
    "a trade id beyond 64 bits": Bad(_trade(t=2**63), "invalid", "t", "2^63"),
    "a flag that is text": Bad(_trade(m="true"), "invalid", "m", "true or false"),
    "microseconds": Bad(_framed(_trade(T=1_680_652_700_000_000)), "invalid", "data.T", "milliseconds"),
    "seconds": Bad(_trade(T=1_680_652_700), "invalid", "T", "milliseconds"),
    "the epoch": Bad(_trade(E=0), "invalid", "E", "milliseconds"),
    "before the epoch": Bad(_trade(T=-1_680_652_700_000), "invalid", "T", "milliseconds"),
    "two clocks a month apart": Bad(_trade(t=9, E=1_683_244_700_000), "invalid", "E", "within a day"),
    "the year 2096": Bad(_framed(_trade(t=10, T=4_000_000_000_000, E=4_000_000_000_000)), "invalid", "data.T", "a day after"),
    "a candle sent in 2096": Bad(_kline(i="5m").replace(b'"E": 1680652740010', b'"E": 4000000000000'), "invalid", "E", "a day after"),
    "no symbol": Bad(_trade(s=None), "invalid", "s", "symbol"),
    "a path for a symbol": Bad(_trade(s="../../etc/passwd"), "invalid", "s", "symbol"),
    "a symbol of another market": Bad(_trade(s="BTCUSD_PERP"), "invalid", "s", "MARKET is um"),
    "an unknown kind": Bad(_framed(_trade(e="tradeX")), "unknown_kind", "data.e", "tradeX"),
    "an unknown interval": Bad(_kline(i="7m"), "invalid", "k.i", "1m"),
    "an interval in the wrong case": Bad(_kline(i="1H"), "invalid", "k.i", "case"),
    "high below low": Bad(_kline(h="9", i="3m"), "invalid", "k.h", "must not be below"),
    "rows of which one is bad": Bad(b"[" + _trade(t=11) + b"," + _trade(t=12, p="-1") + b"]", "invalid", "[].p", "above 0"),
}  # fmt: skip
# one trade among them is good: 11


async def test_bad_messages_become_dead_letters_and_the_good_ones_are_stored(
    server: NatsServer, tmp_path: Path, lines: list[Line]
) -> None:
    """Every bad payload twice, anywhere in the recorded stream."""
    payloads = [line.enveloped for line in lines]
    shuffle = random.Random(20_210_722)
    for bad in (*BAD.values(), *BAD.values()):
        payloads.insert(shuffle.randrange(len(payloads)), bad.payload)
    async with running(Service(tmp_path, nats_url=server.url)) as service:
        await feed(server.url, service, payloads)
        figures = service.figures()
        figures.require_law()
        assert figures.of("messages_received_total", event_type="raw") == len(payloads)
        assert figures.of("messages_failed_total") == 2 * len(BAD)
        among_the_bad = service.lines("/data/trades", pair="BADUSDT")
        assert [json.loads(row)["trade_id"] for row in among_the_bad] == [11]
        await service.require({**rows_of(lines), "um.trade.BADUSDT": among_the_bad})
        assert service.get("/health/readiness").status_code == 200
        _require_letters(dead_letters(service), service.subject)


def _require_letters(letters: list[dict[str, Any]], subject: str) -> None:
    """One letter for each bad payload, counted twice, which says what is wrong and shows how the payload begins."""
    assert len(letters) == len(BAD)
    for name, bad in BAD.items():
        begins = bad.payload[:400].decode("utf-8", "backslashreplace")[:120]
        found = [
            letter
            for letter in letters
            if letter["payload_bytes"] == len(bad.payload) and letter["sample"].startswith(begins)
        ]
        assert [(one["reason"], one["field"], one["count"]) for one in found] == [(bad.reason, bad.field, 2)], name
        assert bad.says in found[0]["message"], name
        assert found[0]["subject"] == subject
        assert len(found[0]["sample"]) < 10_000, name


# ---- in a query ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("trades", {}, "pair"),
        ("trades", {"pair": "../x"}, "pair"),
        ("trades", {"pair": "BTCUSDT", "limit": "0"}, "limit"),
        ("trades", {"pair": "BTCUSDT", "start": "2023-04-05", "end": "2023-04-04"}, "start"),
        ("trades", {"pair": "BTCUSDT", "cursor": "%00"}, "cursor"),
        ("candles", {"pair": "BTCUSDT", "period": "2m"}, "period"),
        ("candles", {"pair": "BTCUSDT"}, "period"),
    ],
)
def test_a_bad_query_names_the_field_and_what_would_be_valid(
    service: Service, path: str, query: dict[str, str], field: str
) -> None:
    answer = service.get(f"/data/{path}", **query)
    body = answer.json()
    assert (answer.status_code, body["error"]["code"], body["error"]["field"]) == (422, "bad_query", field)
    assert body["error"]["valid"]
    assert body["detail"] == body["error"]["message"]


@pytest.mark.parametrize("path", ["/data/nothing", "/backfill/nothing", "/catalog/datasets", "/data/../../etc/passwd"])
def test_what_does_not_exist_is_not_there(service: Service, path: str) -> None:
    assert service.get(path).status_code == 404


# ---- at the start ----------------------------------------------------------------------------------------------------


def refused(command: str, **settings: object) -> str:
    """What a start says that must fail with a message and no traceback."""
    given = {"api_port": 0, "metrics_port": 0, "nats_url": f"nats://127.0.0.1:{free_port()}", **settings}
    environ = {**bare_environment(), **{name.upper(): str(value) for name, value in given.items()}}
    done = run((command,), environ)
    said = done.stderr.decode()
    assert done.returncode in (1, 2), done
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    return errors[0]


@pytest.mark.parametrize("where", ["below a file", "a file", "where nobody may write"])
def test_a_data_dir_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    places = {"below a file": file / "data", "a file": file, "where nobody may write": Path("/sys/data-manager")}
    said = refused("serve", data_dir=places[where])
    assert "DATA_DIR" in said
    assert str(places[where]) in said
    assert file.read_text() == "in the way"


def test_a_data_dir_held_by_another_process_is_named_with_its_holder(service: Service) -> None:
    said = refused("serve", data_dir=service.data_dir)
    assert "DATA_DIR" in said
    assert str(service.data_dir) in said
    assert str(service.pid) in said
    assert service.get("/health/readiness").status_code == 200


@pytest.mark.parametrize("setting", ["api_port", "metrics_port", "nats_own_port"])
def test_a_port_in_use_is_named_by_its_setting(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"nats_url": "", "nats_own_port": free_port(), setting: port}
        said = refused("run", data_dir=tmp_path / "data", **settings)
    assert setting.upper() in said
    assert str(port) in said


def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "series.db"
    file.write_bytes(content := NOISE(20_000))
    said = refused("serve", data_dir=tmp_path)
    assert str(file) in said
    assert "DATA_DIR" in said
    assert file.read_bytes() == content


def _someone_elses(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE mine (a)")


def _of_a_later_release(connection: sqlite3.Connection) -> None:
    connection.executescript("CREATE TABLE series (a); PRAGMA application_id = 1885629811; PRAGMA user_version = 99;")


@pytest.mark.parametrize(("make", "says"), [(_someone_elses, "another DATA_DIR"), (_of_a_later_release, "format 99")])
def test_a_database_that_is_not_ours_to_read_is_left_alone(
    tmp_path: Path, make: Callable[[sqlite3.Connection], None], says: str
) -> None:
    file = tmp_path / "series.db"
    with sqlite3.connect(file) as connection:
        make(connection)
    connection.close()
    content = file.read_bytes()
    said = refused("serve", data_dir=tmp_path)
    assert str(file) in said
    assert says in said
    assert file.read_bytes() == content


# ---- a bus that is not there yet ---------------------------------------------------------------------------------------


async def test_a_bus_that_comes_later_is_waited_for(tmp_path: Path, lines: list[Line]) -> None:
    port = free_port()
    service = Service(tmp_path / "service", nats_url=f"nats://127.0.0.1:{port}")
    async with running(service, ready=False):
        assert service.get("/health/liveness").status_code == 200
        answer = service.get("/health/readiness")
        assert (answer.status_code, answer.json()["status"], answer.json()["ready"]) == (503, "unhealthy", False)
        assert answer.json()["components"]["nats"] == "unhealthy"
        await eventually(lambda: f"127.0.0.1:{port}" in service.get("/health/readiness").json()["reasons"][0])
        server = NatsServer(tmp_path / "nats", port=port)
        await server.start()
        try:
            await eventually(lambda: service.get("/health/readiness").status_code == 200, within_s=20, what="readiness")
            await feed(server.url, service, [line.message for line in lines])
            assert service.figures().of("rows_new_total") == sum(map(len, rows_of(lines).values()))
        finally:
            await server.stop()
        gone = "no readiness any more"
        await eventually(lambda: service.get("/health/readiness").status_code == 503, within_s=20, what=gone)
        assert await service.stop() < 5.0
