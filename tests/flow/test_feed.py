"""The feed against the simulated exchange, over real sockets and a real bus: what is said is on the bus, whatever breaks.

The exchange runs in this process, often faster than time; the feed goes by the exchange's clock, as it goes by the
venue's.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import connect

from data_manager.adapters.binance.feed import BinanceFeed
from data_manager.adapters.binance.feed_line import Rules
from data_manager.adapters.binance.feed_names import streams_of
from data_manager.adapters.binance.wire import Decoder
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.outbox import NatsOutbox
from data_manager.domain.events import Event
from data_manager.ports import Clock
from data_manager.ports.feed import Heard
from data_manager.service.feeding import Feeder
from data_manager.simulator.app import Exchange, Plan
from data_manager.simulator.faults import Fault
from data_manager.simulator.ws import SocketRules
from tests.conftest import eventually
from tests.servers import WallClock, access_to, client_of, free_port, fresh, own_server
from tests.service import Service, bare_environment, command, data_manager, running
from tests.simulator.test_command import simulator

LASTING = Rules(life_jitter_s=0, look_s=0.5)


class Rig:
    """An exchange, a bus with a stream, and the feed between them."""

    def __init__(self, exchange: Exchange, address: str, server: NatsServer, feeder: Feeder, subject: str) -> None:
        self.exchange = exchange
        self.address = address
        self.server = server
        self.feeder = feeder
        self.feed = feeder.feed
        self.subject = subject

    async def kept(self) -> list[dict[str, Any]]:
        """Every message that the bus's stream has, in its order."""
        async with client_of(self.server) as client:
            js = client.jetstream()
            last = (await js.stream_info(self.subject.replace(".", "-"))).state.last_seq
            found = await js.pull_subscribe(self.subject)
            messages: list[dict[str, Any]] = []
            while len(messages) < last:
                messages += [json.loads(one.data) for one in await found.fetch(min(1_000, last - len(messages)))]
            return messages

    async def forward(self, seconds: float) -> None:
        """Return when the exchange's clock has gone on by so much."""
        until_s = self.exchange.clock.monotonic_s() + seconds
        await eventually(lambda: self.exchange.clock.monotonic_s() >= until_s, within_s=30)

    async def all_speak(self) -> None:
        """Return when every stream was heard."""
        await eventually(lambda: self.feed.states()["live"] == len(self.feed.streams), what=f"{self.feed.facts()}")

    def fault(self, kind: str, **words: Any) -> Fault:
        return self.exchange.faults.add(Fault(kind=kind, **words))  # type: ignore[arg-type]


@asynccontextmanager
async def feeding(
    folder: Path,
    pairs: Sequence[str],
    streams: Sequence[str],
    *,
    speed: float = 1.0,
    rules: Rules = LASTING,
    life_ms: int = 86_400_000,
    activity: float = 1.0,
) -> AsyncIterator[Rig]:
    """All of it running; the feed is stopped at the end, and what it heard by then is on the bus."""
    subject = fresh("market.feed")
    plan = Plan(
        port=0, symbols=("BTCUSDT", "ETHUSDT"), speed=speed, activity=activity, rules=SocketRules(life_ms=life_ms)
    )
    exchange = Exchange(plan, WallClock())
    async with own_server(folder) as server, exchange.serving() as address:
        async with client_of(server) as client:
            await client.jetstream().add_stream(name=subject.replace(".", "-"), subjects=[subject])
        async with fed(address.replace("http", "ws"), server, subject, pairs, streams, exchange.clock, rules) as feeder:
            yield Rig(exchange, address, server, feeder, subject)


@asynccontextmanager
async def fed(
    url: str, server: NatsServer, subject: str, pairs: Sequence[str], streams: Sequence[str], clock: Clock, rules: Rules
) -> AsyncIterator[Feeder]:
    feeder = Feeder(
        BinanceFeed(url, streams_of("um", pairs, streams), clock, rules=rules), NatsOutbox(access_to(server), subject)
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(feeder.run(), name="feed")
        try:
            yield feeder
        finally:
            await feeder.stop()
            await feeder.outbox.close()


@asynccontextmanager
async def listening(address: str, path: str) -> AsyncIterator[list[bytes]]:
    """What a plain socket of somebody else hears meanwhile, each event once."""
    heard: list[bytes] = []

    async def hear() -> None:
        async with connect(address.replace("http", "ws") + path, max_size=None) as socket:
            while True:
                heard.append(await socket.recv(decode=False))

    task = asyncio.create_task(hear())
    try:
        await eventually(lambda: bool(heard))
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def data_of(messages: Sequence[dict[str, Any]]) -> list[str]:
    """The venue's part of each, in one spelling."""
    return [json.dumps(message["data"], sort_keys=True) for message in messages]


def ids_of(messages: Sequence[dict[str, Any]], symbol: str = "BTCUSDT") -> list[int]:
    """Ids of the aggregate trades of a symbol, each once."""
    return sorted(
        {one["data"]["a"] for one in messages if one["data"]["e"] == "aggTrade" and one["data"]["s"] == symbol}
    )


def without_a_gap(ids: Sequence[int]) -> bool:
    return list(ids) == list(range(ids[0], ids[-1] + 1))


# ---- what goes onto the bus ---------------------------------------------------------------------------------------


async def test_everything_the_exchange_says_is_on_the_bus_as_the_publisher_would_have_sent_it(tmp_path: Path) -> None:
    kinds = ["trade", "aggTrade", "kline_1m", "depth20@100ms", "depth@100ms", "bookTicker", "markPrice@1s", "ticker"]
    async with feeding(tmp_path, ["BTCUSDT", "ETHUSDT"], kinds, speed=10) as rig:
        await rig.all_speak()
        routes = {one.session.route: set(one.session.names) for one in rig.exchange.hub.listeners}
        await rig.feeder.stop()
        messages = await rig.kept()
    assert set(routes) == {"public", "market"}
    for route, names in routes.items():
        assert names
        assert {rig.exchange.hub.feed.route(name) for name in names} == {route}, "never on the other route"
    assert len(messages) == rig.feed.heard.total() == rig.feeder.outbox.confirmed
    for message in messages:
        assert list(message) == ["stream", "data", "timestamp", "message_id", "source", "version"]
    assert {one["stream"] for one in messages if one["data"]["s"] == "BTCUSDT"} == {
        "btcusdt@trade", "btcusdt@aggTrade", "btcusdt@kline", "btcusdt@depth20@100ms", "btcusdt@bookTicker",
        "btcusdt@markPrice@1s", "btcusdt@ticker",
    }  # fmt: skip
    decode = Decoder()
    assert all(isinstance(one, Event) for message in messages for one in decode(json.dumps(message).encode(), 0))


async def test_a_socket_that_grows_old_is_replaced_without_a_loss(tmp_path: Path) -> None:
    rules = Rules(life_s=20.0, life_jitter_s=0, look_s=0.5)
    path = "/market/ws/btcusdt@aggTrade/ethusdt@aggTrade/btcusdt@kline_1m"
    async with feeding(tmp_path, ["BTCUSDT", "ETHUSDT"], ["aggTrade", "kline_1m"], speed=10, rules=rules) as rig:
        await rig.all_speak()
        async with listening(rig.address, path) as heard:
            await eventually(lambda: rig.feed.lines[0].replaced["old"] >= 3, what="three replacements")
            seen = list(heard)
        await rig.forward(1)
    messages = data_of(await _kept_after(rig, tmp_path))
    expected = {json.dumps(json.loads(one), sort_keys=True) for one in seen if b"ethusdt@kline" not in one}
    assert expected
    assert expected <= set(messages)
    assert len(messages) > len(set(messages)), "both sockets delivered for a while"
    assert rig.feed.lines[0].cuts == 0


async def _kept_after(rig: Rig, folder: Path) -> list[dict[str, Any]]:
    """What the bus has, when the rig's own server is down already."""
    server = NatsServer(folder, port=0)
    await server.start()
    try:
        return await Rig(rig.exchange, rig.address, server, rig.feeder, rig.subject).kept()
    finally:
        await server.stop()


async def test_before_the_venue_cuts_after_a_day_another_socket_delivers(tmp_path: Path) -> None:
    """A day of 60 seconds, cut by the exchange; ours go after 40."""
    rules, streams = Rules(life_s=40.0, life_jitter_s=5.0, look_s=0.5, overlap_s=10.0), ["aggTrade", "depth@100ms"]
    async with feeding(tmp_path, ["BTCUSDT"], streams, speed=20, rules=rules, life_ms=60_000) as rig:
        await rig.forward(200)
        await rig.feeder.stop()
        messages = await rig.kept()
    assert without_a_gap(ids_of(messages))
    books = sorted({(one["data"]["u"], one["data"]["pu"]) for one in messages if one["data"]["e"] == "depthUpdate"})
    assert all(book[1] == before[0] for before, book in pairwise(books)), "an unbroken chain"
    assert [line.cuts for line in rig.feed.lines] == [0, 0]


# ---- what breaks --------------------------------------------------------------------------------------------------


async def test_sockets_that_are_cut_come_back_and_the_absence_is_counted(tmp_path: Path) -> None:
    async with feeding(tmp_path, ["BTCUSDT"], ["markPrice@1s", "bookTicker"], speed=5) as rig:
        await rig.all_speak()
        for _ in range(3):
            before = [line.current for line in rig.feed.lines]
            rig.fault("drop", start_ms=rig.exchange.clock.now_ms())
            await eventually(
                lambda before=before: all(
                    line.current not in (None, was) for line, was in zip(rig.feed.lines, before, strict=True)
                )
            )
            await eventually(lambda: all(line.current.frames for line in rig.feed.lines))
        facts = rig.feed.facts()
    assert [one["cuts"] for one in facts["sockets"]] == [3, 3]
    assert all(one["away_s"] > 0 for one in facts["sockets"])
    assert facts["connected"]


async def test_a_stream_that_stalls_on_a_socket_that_lives_gets_another_socket(tmp_path: Path) -> None:
    """Silence of one stream, found by its own bound; the others go on meanwhile, and nothing of them is lost."""
    async with feeding(tmp_path, ["BTCUSDT", "ETHUSDT"], ["markPrice@1s", "aggTrade"], speed=20) as rig:
        await rig.all_speak()
        stall = rig.fault("stall", streams="btcusdt@markPrice@1s")
        await eventually(lambda: rig.feed.facts()["silent"] == ["btcusdt@markPrice@1s"])
        await eventually(lambda: rig.feed.lines[0].replaced["silent"] >= 1)
        rig.exchange.faults.remove(stall.id)
        await eventually(lambda: rig.feed.facts()["silent"] == [])
        events = [(one["what"], one["streams"]) for one in rig.feed.facts()["events"]]
        await rig.feeder.stop()
        messages = await rig.kept()
    assert without_a_gap(ids_of(messages))
    assert without_a_gap(ids_of(messages, "ETHUSDT"))
    assert rig.feed.lines[0].cuts == 0
    told = [what for what, streams in events if "btcusdt@markPrice@1s" in streams]
    assert told[:2] == ["silent", "replaced: silent"]
    assert told[-1] == "speaks again"


async def test_a_socket_that_delivers_later_and_later_is_replaced(tmp_path: Path) -> None:
    """TCP delays everything and drops nothing; judged against its own best, so that clocks may disagree."""
    async with feeding(tmp_path, ["BTCUSDT"], ["markPrice@1s", "aggTrade"], speed=20) as rig:
        await rig.all_speak()
        rig.fault("skew", skew_ms=-3_600_000)
        await rig.forward(5)
        [line] = rig.feed.lines
        assert line.replaced["behind"] <= 1, "a clock that is set is noticed once"
        rig.exchange.faults.clear()
        before = line.replaced["behind"]
        await rig.forward(65)
        rig.fault("late", streams="btcusdt@markPrice@1s", delay_ms=20_000)
        await eventually(lambda: line.replaced["behind"] > before, what=f"{rig.feed.facts()}")
        assert line.cuts == 0


async def test_the_other_markets_have_one_address_for_all_streams() -> None:
    async with Exchange(Plan(port=0, symbols=("BTCUSDT",)), WallClock()).serving() as address:
        streams = streams_of("spot", ["BTCUSDT"], ["bookTicker", "trade"])
        feed = BinanceFeed(address.replace("http", "ws"), streams, WallClock(), rules=LASTING)
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.run())
            await eventually(lambda: feed.heard["bookTicker"] > 3)
            assert [line.route for line in feed.lines] == [""]
            feed.stop()


async def test_a_name_nobody_knows_is_acknowledged_and_named_as_never_heard(tmp_path: Path) -> None:
    async with feeding(tmp_path, ["BTCUSDT", "NOSUCHUSDT"], ["markPrice@1s"], speed=40) as rig:
        await eventually(lambda: rig.feed.facts()["never_heard"] == ["nosuchusdt@markPrice@1s"])
        await rig.forward(300)
        facts, [line] = rig.feed.facts(), rig.feed.lines
    assert facts["never_heard"] == ["nosuchusdt@markPrice@1s"]
    assert facts["streams"] == {"wanted": 2, "live": 1, "never_heard": 1}
    assert facts["connected"], "the exchange is there: a name is wrong"
    assert 1 <= line.replaced["silent"] <= 5, "less and less often"
    assert line.cuts == 0


async def test_1025_streams_are_two_sockets_and_neither_is_ended(tmp_path: Path) -> None:
    pairs = ["BTCUSDT", *(f"X{number}USDT" for number in range(1_024))]
    rules = msgspec.structs.replace(LASTING, streams_per_socket=1_024)
    async with feeding(tmp_path, pairs, ["markPrice@1s"], rules=rules) as rig:
        await eventually(lambda: all(line.current is not None for line in rig.feed.lines))
        sessions = [one.session for one in rig.exchange.hub.listeners]
        assert sorted(len(one.names) for one in sessions) == [512, 513]
        assert len({name for one in sessions for name in one.names}) == 1_025
        await eventually(lambda: rig.feed.heard["markPrice"] > 2)
        assert [line.attempts for line in rig.feed.lines] == [line.cuts for line in rig.feed.lines] == [0, 0]


async def test_an_exchange_that_is_away_is_tried_again_less_often_and_comes_back(tmp_path: Path) -> None:
    port, subject = free_port(), fresh("market.feed")
    rules = msgspec.structs.replace(LASTING, pause_max_s=0.3)
    async with own_server(tmp_path) as server:
        clock = WallClock()
        async with fed(
            f"ws://127.0.0.1:{port}", server, subject, ["BTCUSDT"], ["markPrice@1s", "bookTicker"], clock, rules
        ) as feeder:
            await eventually(lambda: all(line.attempts >= 3 for line in feeder.feed.lines))
            assert "2 of 2 sockets are away: cannot connect to ws://127.0.0.1" in str(feeder.reason)
            for _ in range(2):
                heard = feeder.feed.heard.total()
                async with Exchange(Plan(port=port, symbols=("BTCUSDT",)), clock).serving():
                    await eventually(lambda heard=heard: feeder.reason is None and feeder.feed.heard.total() > heard)
                await eventually(lambda: feeder.reason is not None, what="it went away")


async def test_a_venue_that_refuses_us_is_asked_again_no_sooner_than_it_says(tmp_path: Path) -> None:
    async with feeding(tmp_path, ["BTCUSDT"], ["markPrice@1s"]) as rig:
        await rig.all_speak()
        rig.fault("refuse", status=429)
        rig.fault("drop", start_ms=rig.exchange.clock.now_ms())
        [line] = rig.feed.lines
        await eventually(lambda: line.attempts == 1)
        assert "answers 429 Too Many Requests" in str(line.reason)
        await asyncio.wait([asyncio.create_task(asyncio.sleep(1.0))])
        assert line.attempts == 1, "it pauses for a minute"


async def test_what_the_bus_did_not_confirm_is_sent_again_when_it_is_back(tmp_path: Path) -> None:
    async with feeding(tmp_path, ["BTCUSDT"], ["aggTrade", "depth@100ms"], activity=20.0) as rig:
        await rig.all_speak()
        for _ in range(2):
            await rig.server.kill()
            heard = rig.feed.heard.total()
            await eventually(lambda heard=heard: rig.feed.heard.total() > heard + 20)
            await rig.server.start()
            await eventually(lambda: rig.feeder.outbox.connection.connected and rig.feeder.outbox.owed < 100)
        await rig.feeder.stop()
        messages = await rig.kept()
    assert without_a_gap(ids_of(messages))
    assert rig.feed.dropped == 0


async def test_a_full_queue_lets_the_oldest_go_and_says_so() -> None:
    let_go: list[Heard] = []
    rules = msgspec.structs.replace(LASTING, waiting_max=50)
    async with Exchange(Plan(port=0, symbols=("BTCUSDT",)), WallClock()).serving() as address:
        feed = BinanceFeed(
            address.replace("http", "ws"), streams_of("um", ["BTCUSDT"], ["bookTicker"]), WallClock(), rules=rules,
            let_go=let_go.append,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.run())
            await eventually(lambda: feed.dropped >= 20)
            feed.stop()
        left = [one async for batch in feed.batches() for one in batch]
    assert len(left) == 50
    assert len(let_go) == feed.dropped
    assert len(let_go) + len(left) == feed.heard["bookTicker"]
    ids = [json.loads(one.data)["u"] for one in [*let_go, *left]]
    assert ids == sorted(ids), "the oldest went"


async def test_a_bus_without_memory_is_fed_too(tmp_path: Path) -> None:
    subject, received = fresh("market.feed"), Counter[str]()
    async with own_server(tmp_path, jetstream=False) as server, client_of(server) as client:

        async def take(message: Any) -> None:
            received[json.loads(message.data)["data"]["e"]] += 1

        await client.subscribe(subject, cb=take)
        await client.flush()
        async with Exchange(Plan(port=0, symbols=("BTCUSDT",)), WallClock()).serving() as address:
            url = address.replace("http", "ws")
            async with fed(url, server, subject, ["BTCUSDT"], ["bookTicker"], WallClock(), LASTING) as feeder:
                await eventually(lambda: received["bookTicker"] > 5)
                await eventually(lambda: feeder.outbox.confirmed > 5)
                assert not feeder.outbox.durable


# ---- as people start it -------------------------------------------------------------------------------------------


async def test_run_without_an_exchange_is_ready_at_once_says_so_loudly_and_stops_at_once(tmp_path: Path) -> None:
    """Refused, and a black hole that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        for number, port in enumerate((free_port(), hole.getsockname()[1])):
            url = f"ws://127.0.0.1:{port}"
            settings = {"enable_feed": True, "binance_ws_url": url, "nats_own_port": free_port()}
            async with running(Service(tmp_path / str(number), command="run", **settings)) as service:
                found = service.page("/health/readiness")
                assert (found["ready"], found["status"], found["components"]["feed"]) == (True, "healthy", "unhealthy")
                feed = service.page("/health/connections")["feed"]
                assert not feed["connected"]
                assert feed["exchange"] == url
                assert service.figures().of("feed_connected") == 0
                assert service.figures().of("feed_sockets_wanted") == 2
                assert await service.stop() < 3


async def test_a_resolver_that_does_not_answer_holds_up_neither_start_nor_stop(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.flow.deaf_resolver"]
    settings = {"enable_feed": True, "binance_ws_url": "ws://exchange.invalid", "nats_own_port": free_port()}
    async with running(Service(tmp_path, command="run", program=program, **settings)) as service:
        assert service.page("/health/connections")["feed"]["reason"] == "2 of 2 sockets are away: not connected yet"
        assert await service.stop() < 3


async def test_run_stores_what_the_exchange_says_to_the_last_row(tmp_path: Path) -> None:
    """Two processes: the simulated exchange, and everything else."""
    with simulator("--symbols", "BTCUSDT,ETHUSDT", "--activity", "30") as (_, address):
        settings = {
            "enable_feed": True, "binance_ws_url": address.replace("http", "ws"), "nats_own_port": free_port(),
            "supported_pairs": "BTCUSDT,ETHUSDT", "enable_auditor": False,
        }  # fmt: skip
        async with running(Service(tmp_path, command="run", **settings)) as service:
            assert service.page("/health/readiness")["ready"]
            await eventually(lambda: service.figures().of("rows_new_total", event_type="aggTrade") > 30, within_s=90)
            figures = service.figures()
            assert figures.of("feed_connected") == 1
            assert figures.of("feed_dropped_total") == figures.of("feed_cuts_total") == 0
            figures.require_law()
            rows = service.rows("/data/agg_trades", pair="BTCUSDT")
            query = {"symbol": "BTCUSDT", "fromId": rows[0]["agg_id"], "limit": len(rows)}
            truth = httpx2.get(f"{address}/control/truth/fapi/v1/aggTrades", params=query).json()
            assert [(one["agg_id"], one["price"], one["quantity"]) for one in rows] == [(one["a"], one["p"], one["q"]) for one in truth]  # fmt: skip
            assert service.page("/dead-letters")["data"] == []
            assert await service.stop() < 5


async def test_the_feed_as_a_process_of_its_own(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        environ = {**bare_environment(), "NATS_URL": server.url, "NATS_MODE": "core"}
        with simulator("--symbols", "BTCUSDT") as (_, address):
            words = [
                "--pairs",
                "BTCUSDT",
                "--exchange",
                address.replace("http", "ws"),
                "--seconds",
                2,
                "--metrics-port",
                0,
            ]
            facts = json.loads(await asyncio.to_thread(command, environ, "feed", "--json", *words))
        assert facts["connected"]
        assert facts["heard"] == facts["bus"]["confirmed"] > 0
        words = ["--exchange", f"ws://127.0.0.1:{free_port()}", "--seconds", 0.5]
        said = await asyncio.to_thread(command, environ, "feed", *words)
        assert said.decode() == "0 messages heard, 0 on the bus for sure\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--streams", "nothing"], "BINANCE_STREAMS='nothing': must be such as trade"),
        (["--pairs", "btc"], "SUPPORTED_PAIRS='btc': must be um symbols"),
        (["--exchange", "fstream.binance.com"], "BINANCE_WS_URL='fstream.binance.com': must be like wss://"),
        (["--seconds", "0"], "seconds 0.0: must be above 0"),
        (["--metrics-port", "70000"], "Invalid value for '--metrics-port'"),
    ],
)
def test_what_cannot_be_fed_is_one_line_and_an_exit_code(words: list[str], said: str) -> None:
    done = subprocess.run(
        [*data_manager(), "feed", *words], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
