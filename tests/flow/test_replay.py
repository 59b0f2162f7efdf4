"""Recordings onto a real bus: the venue's bytes untouched, the publisher's envelope exact, nothing lost unsaid."""

import asyncio
import gzip
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_stream import StreamOptions
from data_manager.adapters.bus.opening import open_bus
from data_manager.adapters.bus.publisher import open_publisher
from data_manager.domain.errors import BadQuery, Corrupt, Invalid, NotFound, Unavailable
from data_manager.ports import Clock
from data_manager.services.envelope import Enveloper, Recorded, parse_line
from data_manager.services.replay import Replay, ReplayOptions, ReplayProgress, ReplayReport, parse_speed
from tests.conftest import eventually
from tests.servers import SteppingClock, WallClock, access_to, client_of, free_port, fresh, own_server

COUNTS = {  # messages per file, from the README of the recordings
    "binance_futures/ws/2021-04-05_sand-chr-neo-ctk-bat": 8_421,
    "binance_futures/ws/2021-07-22_sushi-akro-keep-ctk": 1_535,
    "binance_futures/ws/2023-04-04_btcusdt": 13_383,
    "binance_futures/ws/2023-04-05_btcusdt_part1": 29_975,
    "binance_futures/ws/2024-08-08_btcusdt": 93_953,
    "binance_futures/ws/2024-08-08_ethusdt": 74_654,
    "binance_coinm/ws/2021-07-22_ten-symbols": 4_371,
    "binance_spot/ws/2021-04-04_dot-btc-eth": 4_716,
    "binance_spot/ws/2021-10-12_nkn-blz-lrc-rune": 265,
    "binance_spot/ws/2024-08-08_btcusdt": 41_248,
    "other_exchanges/ws/2021-07-22_kraken_futures": 7_175,
    "other_exchanges/ws/2022-05-13_okx": 410,
    "other_exchanges/ws/2023-05-24_gateio_futures": 450,
    "other_exchanges/ws/2024-12-01_bybit_xrpusdt_ob500": 50,
    "other_exchanges/ws/2025-01-26_hyperliquid_btc": 55,
}
SMALL = "binance_futures/ws/2021-07-22_sushi-akro-keep-ctk"
KEYS = ["stream", "data", "timestamp", "message_id", "source", "version"]


class Kept:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.confirmed = 0

    async def publish(self, payloads: Sequence[bytes]) -> None:
        self.payloads += payloads

    async def confirm(self) -> None:
        self.confirmed = len(self.payloads)


def file_of(recordings: Path, name: str) -> Path:
    return recordings / f"{name}.jsonl.gz"


def cut(line: bytes) -> bytes:
    """The message of a recorded line by the recipe of the recordings' README."""
    line = line.rstrip(b"\r\n")
    return line[line.index(b'"msg":') + 6 : -1] if line.startswith(b'{"recv_ns"') else line


def cut_data(message: bytes) -> bytes:
    """The data of a combined message, cut by hand; any other message whole."""
    if not message.startswith(b'{"stream":"'):
        return message
    return message[message.index(b'"data":') + 7 : -1]


async def replayed(
    files: Sequence[Path], *, clock: Clock | None = None, **options: object
) -> tuple[list[bytes], ReplayReport]:
    kept = Kept()
    how = ReplayOptions(**options)  # type: ignore[arg-type]
    report = await Replay(files, kept, clock=clock or WallClock(), options=how).run()
    assert kept.confirmed == report.messages == len(kept.payloads)
    return kept.payloads, report


def write(file: Path, lines: Sequence[bytes]) -> Path:
    body = b"".join(line + b"\n" for line in lines)
    file.write_bytes(gzip.compress(body) if file.suffix == ".gz" else body)
    return file


def recorded_line(recv_ns: int, number: int) -> bytes:
    return b'{"recv_ns":%d,"msg":{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":%d}}}' % (
        recv_ns,
        number,
    )


# ---- what is sent


@pytest.mark.parametrize("name", COUNTS)
async def test_raw_sends_the_bytes_of_the_recording(recordings: Path, name: str) -> None:
    file = file_of(recordings, name)
    payloads, report = await replayed([file], form="raw")
    with gzip.open(file) as lines:
        assert payloads == [cut_data(cut(line)) for line in lines]
    assert report.messages == COUNTS[name]


ENVELOPE = re.compile(
    rb'\{"stream":"[^"]*","data":(.*),"timestamp":"([^"]*)Z",'
    rb'"message_id":"([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})",'
    rb'"source":"binance-websocket","version":"1\.0"\}'
)


@pytest.mark.parametrize("name", COUNTS)
async def test_the_envelope_is_the_publishers(recordings: Path, name: str) -> None:
    file = file_of(recordings, name)
    payloads, _ = await replayed([file])
    ids = set()
    with gzip.open(file) as lines:
        for line, payload in zip(lines, payloads, strict=True):
            envelope = ENVELOPE.fullmatch(payload)
            assert envelope is not None
            assert envelope[1] == cut_data(cut(line))
            if line.startswith(b'{"recv_ns":'):
                received_us = int(line[11 : line.index(b",")]) // 1_000
                at = datetime(1970, 1, 1) + timedelta(microseconds=received_us)  # noqa: DTZ001 - naive, as theirs is
                assert envelope[2] == at.isoformat().encode()
            ids.add(envelope[3])
    assert len(ids) == len(payloads)
    assert list(json.loads(payloads[0])) == KEYS


NAMES = [
    (b'{"e":"trade","s":"BTCUSDT"}', "btcusdt@trade", "btcusdt@trade"),
    (b'{"e":"aggTrade","s":"BTCUSDT"}', "btcusdt@aggTrade", "btcusdt@aggTrade"),
    (b'{"e":"24hrTicker","s":"ETHUSDT"}', "ethusdt@ticker", "ethusdt@ticker"),
    (b'{"e":"depthUpdate","s":"BTCUSDT"}', "btcusdt@depth@0ms", "btcusdt@depth20@100ms"),
    (b'{"e":"markPriceUpdate","s":"BTCUSDT"}', "btcusdt@markPrice", "btcusdt@markPrice@1s"),
    (b'{"e":"kline","s":"BTCUSDT","k":{"i":"1h"}}', "btcusdt@kline_1h", "btcusdt@kline"),
    (b'{"e":"bookTicker","s":"BTCUSDT"}', "!bookTicker", "btcusdt@bookTicker"),
    (b'{"u":1,"s":"BNBUSDT","b":"1","a":"2"}', "bnbusdt@bookTicker", "bnbusdt@bookTicker"),
    (b'{"lastUpdateId":160,"bids":[],"asks":[]}', "ethusdt@depth5", "ethusdt@depth20@100ms"),
    (b'{"e":"forceOrder","o":{"s":"BTCUSDT"}}', "btcusdt@forceOrder", "btcusdt@forceOrder"),
    (b'[{"e":"markPriceUpdate","s":"BTCUSDT"}]', "!markPrice@arr@1s", "!markPrice@arr@1s"),
    ('{"e":"trade","s":"币安人生USDT"}'.encode(), "币安人生usdt@trade", "币安人生usdt@trade"),
    (b'{"e":1,"s":[2]}', "strange", "strange"),
    (b'{"lastUpdateId":160,"bids":[],"asks":[]}', None, ""),
    (b'{"result":null,"id":1}', None, ""),
]


@pytest.mark.parametrize(("data", "recorded", "expected"), NAMES)
def test_stream_names_are_made_as_the_publisher_makes_them(data: bytes, recorded: str | None, expected: str) -> None:
    payload = Enveloper().wrap(Recorded(1_680_652_800_000_000_000, recorded, data), now_ns=0)
    assert json.loads(payload)["stream"] == expected
    assert json.loads(payload)["timestamp"] == "2023-04-05T00:00:00Z"  # no fraction when it is zero


async def test_lines_that_are_enveloped_or_bare_are_taken_too(tmp_path: Path) -> None:
    enveloped = b'{"stream":"btcusdt@trade", "data":{"e":"trade"},"timestamp":"2025-10-20T12:34:56Z","message_id":"x"}'
    combined = b'{"stream":"ethusdt@trade","data":{"e":"trade","s":"ETHUSDT"}}'
    bare = b'{"e":"trade","s":"BNBUSDT"}'
    file = write(tmp_path / "mixed.jsonl", [enveloped, b"", combined, bare, b"[1,2]"])
    sent, _ = await replayed([file], clock=SteppingClock(1_700_000_000_000))
    assert sent[0] == enveloped
    envelopes = [json.loads(payload) for payload in sent[1:]]
    assert [(one["stream"], one["data"]) for one in envelopes] == [
        ("ethusdt@trade", {"e": "trade", "s": "ETHUSDT"}), ("bnbusdt@trade", {"e": "trade", "s": "BNBUSDT"}), ("", [1, 2]),
    ]  # fmt: skip
    assert all(one["timestamp"].startswith("2023-11-14T22:13:20") for one in envelopes)  # now, for want of another time
    bare_sent, _ = await replayed([file], form="raw")
    assert bare_sent == [b'{"e":"trade"}', b'{"e":"trade","s":"ETHUSDT"}', bare, b"[1,2]"]


@given(st.binary(max_size=200))
def test_any_line_is_a_message_or_invalid(line: bytes) -> None:
    with suppress(Invalid):
        Enveloper().wrap(parse_line(line.strip() or b"x", "random line 1"), now_ns=0)


# ---- in which order, how fast


async def test_files_come_in_the_order_given_or_merged_by_receive_time(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.jsonl.gz", [recorded_line(n * 10**9, n) for n in (1, 3, 5)])
    even = write(tmp_path / "even.jsonl", [recorded_line(n * 10**9, n) for n in (2, 4, 6)])

    async def ids(**options: object) -> list[int]:
        payloads, _ = await replayed([odd, even], form="raw", **options)
        return [json.loads(payload)["t"] for payload in payloads]

    assert await ids() == [1, 3, 5, 2, 4, 6]
    assert await ids(merge=True) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 30.0), (10.0, 3.0), (None, 0.0)])
async def test_the_recorded_pace_divided_by_the_speed(recordings: Path, speed: float | None, seconds: float) -> None:
    clock = SteppingClock()
    _, report = await replayed([file_of(recordings, SMALL)], clock=clock, speed=speed)
    assert report.messages == COUNTS[SMALL]
    assert clock.slept_s == report.seconds == pytest.approx(seconds, rel=0.1)


async def test_years_between_two_recordings_are_not_waited_for(tmp_path: Path) -> None:
    far = write(tmp_path / "far.jsonl", [recorded_line(n * 10**18, n) for n in (1, 2)])
    clock = SteppingClock()
    await replayed([far], clock=clock, speed=1.0)
    assert clock.slept_s == pytest.approx(10.0)


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("1", 1.0), ("2.5", 2.5)])
def test_speeds_people_write(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "fast", "nan", "inf", ""])
def test_speeds_that_are_none(text: str) -> None:
    with pytest.raises(BadQuery, match="speed"):
        parse_speed(text)


async def test_progress_reaches_the_whole(recordings: Path) -> None:
    seen: list[ReplayProgress] = []
    file = file_of(recordings, SMALL)
    await Replay([file], Kept(), clock=WallClock(), on_progress=seen.append).run()
    assert [one.messages for one in seen] == sorted(one.messages for one in seen)
    assert seen[-1].messages == COUNTS[SMALL]
    assert seen[-1].bytes_read == seen[-1].bytes_total == file.stat().st_size
    assert seen[-1].file == file.name


async def test_stop_ends_with_everything_sent_confirmed(recordings: Path) -> None:
    kept = Kept()

    def stop_after_1000(progress: ReplayProgress) -> None:
        if progress.messages >= 1_000:
            replay.stop()

    replay = Replay([file_of(recordings, SMALL)], kept, clock=WallClock(), on_progress=stop_after_1000)
    report = await replay.run()
    assert report.stopped
    assert 1_000 <= report.messages < COUNTS[SMALL]
    assert kept.confirmed == report.messages == len(kept.payloads)


async def test_stop_ends_a_pause(tmp_path: Path) -> None:
    far = write(tmp_path / "far.jsonl", [recorded_line(n * 10**18, n) for n in (1, 2)])
    replay = Replay([far], Kept(), clock=WallClock(), options=ReplayOptions(speed=1.0))
    async with asyncio.timeout(3.0), asyncio.TaskGroup() as group:
        running = group.create_task(replay.run())
        await asyncio.sleep(0)
        replay.stop()
    assert running.result().messages == 1


# ---- bad files


async def test_a_missing_file_is_named_before_anything_is_sent(recordings: Path, tmp_path: Path) -> None:
    kept = Kept()
    with pytest.raises(NotFound, match=r"absent\.jsonl: no such file"):
        await Replay([file_of(recordings, SMALL), tmp_path / "absent.jsonl"], kept, clock=WallClock()).run()
    with pytest.raises(NotFound, match="a folder"):
        await Replay([tmp_path], kept, clock=WallClock()).run()
    assert kept.payloads == []


@pytest.mark.parametrize(
    "body", [b"hello\n", b"123\n", b'"text"\n', b"PAR1\x15\x04\x15\n", b'{"recv_ns":"x","msg":{}}\n']
)
async def test_what_is_no_recording_is_named_with_line_and_expectation(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "bad.jsonl").write_bytes(body)
    with pytest.raises(Invalid, match=r"bad\.jsonl line 1 .*must be a JSON object"):
        await Replay([tmp_path / "bad.jsonl"], Kept(), clock=WallClock()).run()


async def test_what_precedes_a_bad_line_is_sent(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl.gz", [recorded_line(n, n) for n in range(700)] + [b"{oops"])
    kept = Kept()
    with pytest.raises(Invalid, match=r"bad\.jsonl\.gz line 701 '\{oops'"):
        await Replay([file], kept, clock=WallClock()).run()
    assert kept.confirmed == len(kept.payloads) == 700


async def test_a_gzip_file_that_is_cut_off_is_corrupt(recordings: Path, tmp_path: Path) -> None:
    whole = file_of(recordings, SMALL).read_bytes()
    for name, body in (("cut.jsonl.gz", whole[: len(whole) // 2]), ("bad.jsonl.gz", whole[:20_000] + b"\0" * 40_000)):
        (tmp_path / name).write_bytes(body)
        kept = Kept()
        with pytest.raises(Corrupt, match=rf"{re.escape(name)} .* after line \d+"):
            await Replay([tmp_path / name], kept, clock=WallClock()).run()
        with gzip.open(file_of(recordings, SMALL)) as lines:
            expected = [cut_data(cut(line)) for line in lines][: len(kept.payloads)]
        assert 100 < len(kept.payloads) == kept.confirmed
        assert all(data in payload for data, payload in zip(expected, kept.payloads, strict=True))


# ---- with a real server


async def test_every_message_is_in_the_stream_on_return(recordings: Path, tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        subject = fresh("market")
        bus = open_bus(access_to(server), subject, mode="auto", clock=WallClock(), stream=StreamOptions())

        async def is_connected() -> bool:
            return (await bus.state()).connected

        await eventually(is_connected, what="the stream made")
        files = [file_of(recordings, name) for name in (SMALL, "binance_futures/ws/2021-04-05_sand-chr-neo-ctk-bat")]
        async with open_publisher(access_to(server), subject) as publisher, client_of(server) as client:
            report = await Replay(files, publisher, clock=WallClock()).run()
            stream = (await client.jetstream().stream_info("MARKET_EVENTS")).state
        assert report.messages == stream.messages == stream.last_seq == 1_535 + 8_421
        expected, _ = await replayed(files)
        got: list[bytes] = []
        async for batch in bus.batches(0.05):
            got += [delivery.payload for delivery in batch]
            await bus.ack(batch)
            if len(got) >= report.messages:
                break
        await bus.close()
        assert [json.loads(one)["data"] for one in got] == [json.loads(one)["data"] for one in expected]


async def test_every_message_reaches_a_core_subscriber(recordings: Path, tmp_path: Path) -> None:
    async with own_server(tmp_path, jetstream=False) as server, client_of(server) as client:
        subject, got = fresh("market"), []

        async def take(message: object) -> None:
            got.append(message)

        await client.subscribe(subject, cb=take)
        await client.flush()
        async with open_publisher(access_to(server), subject) as publisher:
            assert publisher.stream is None
            report = await Replay([file_of(recordings, SMALL)], publisher, clock=WallClock()).run()
        await eventually(lambda: len(got) == report.messages, what="all received")


async def test_messages_that_the_stream_does_not_keep_are_an_error(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, client_of(server) as client:
        subject = fresh("market")
        await client.jetstream().add_stream(name="SMALL", subjects=[subject], max_msg_size=100)
        async with open_publisher(access_to(server), subject) as publisher:
            with pytest.raises(Unavailable, match="the server dropped 1 of 2000 messages before stream SMALL"):
                await publisher.publish([b"x" * 101] + [b"x"] * 3_999)
        async with open_publisher(access_to(server), subject) as publisher:
            await publisher.publish([b"x" * 101] + [b"x"] * 50)
            with pytest.raises(Unavailable, match="the server dropped 1 of 51 messages before stream SMALL"):
                await publisher.confirm()


async def test_a_message_larger_than_the_server_takes_is_refused(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, open_publisher(access_to(server), fresh("market")) as publisher:
        with pytest.raises(Invalid, match=r"2000000 bytes.*at most 1048576"):
            await publisher.publish([b"x" * 2_000_000])


async def test_without_a_server_the_publisher_says_so_at_once() -> None:
    access = NatsAccess(urls=(f"nats://us:s3cret@127.0.0.1:{free_port()}",))
    with pytest.raises(Unavailable, match=r"cannot connect to nats://127.0.0.1:\d+: .*refused") as raised:
        async with open_publisher(access, "market"):
            pass
    assert "s3cret" not in str(raised.value)


async def test_a_server_that_goes_away_is_an_error(recordings: Path, tmp_path: Path) -> None:
    async with own_server(tmp_path) as server, open_publisher(access_to(server), fresh("market")) as publisher:
        await server.kill()
        with pytest.raises(Unavailable, match="publishing"):
            await Replay([file_of(recordings, SMALL)] * 20, publisher, clock=WallClock()).run()
