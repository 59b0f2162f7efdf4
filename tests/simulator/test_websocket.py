"""Real sockets: routes, modes, the control protocol and its quirks, limits, pings, the cut."""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from data_manager.simulator.ws import SocketRules
from tests.conftest import eventually
from tests.simulator.exchange import Running, asked, drained, running, told


async def closed(socket) -> tuple[int, str]:
    """How the other side ended it."""
    async with asyncio.timeout(5):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")


async def streams_of(exchange: Running, socket, names: list[str], seconds: float = 70) -> set[str]:
    """Names of the streams that speak within so many seconds, in combined mode."""
    await asked(socket, "SET_PROPERTY", ["combined", True])
    await asked(socket, "SUBSCRIBE", names)
    await exchange.forward(seconds)
    return {message["stream"] for message in await drained(socket)}


PUBLIC = ["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth20@100ms"]
ROUTED = ["btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@markPrice@1s"]


@pytest.mark.parametrize(("path", "speaking"), [("/public/ws", PUBLIC), ("/market/ws", ROUTED), ("/ws", PUBLIC), ("/private/ws", [])])  # fmt: skip
async def test_the_wrong_route_is_acknowledged_and_silent(path: str, speaking: list[str]) -> None:
    async with running() as exchange, exchange.socket(path, max_size=None) as socket:
        assert await asked(socket, "SUBSCRIBE", [*PUBLIC, *ROUTED]) == {"result": None, "id": 1}
        assert await streams_of(exchange, socket, []) == set(speaking)


async def test_an_acknowledgement_proves_nothing() -> None:
    wrong = ["BTCUSDT@aggTrade", "nousdt@aggTrade", "btcusdt@nothing", "btcusdt@kline_1M1"]
    async with running() as exchange, exchange.socket("/market/ws") as socket:
        assert await asked(socket, "SUBSCRIBE", wrong, 9) == {"result": None, "id": 9}
        assert await asked(socket, "LIST_SUBSCRIPTIONS", None, 3) == {"result": wrong, "id": 3}
        assert await asked(socket, "UNSUBSCRIBE", ["never@asked"], 4) == {"result": None, "id": 4}
        await exchange.forward(60)
        assert await drained(socket) == []


async def test_raw_and_combined_modes() -> None:
    async with (
        running() as exchange,
        exchange.socket("/market/ws/btcusdt@markPrice@1s") as raw,
        exchange.socket("/market/stream?streams=btcusdt@markPrice@1s/ethusdt@markPrice@1s") as combined,
    ):
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 2)
        await exchange.forward(1)
        bare = await told(raw)
        assert bare["e"] == "markPriceUpdate"
        wrapped = {message["stream"]: message["data"] for message in await drained(combined)}
        assert wrapped["btcusdt@markPrice@1s"] == bare
        assert set(wrapped) == {"btcusdt@markPrice@1s", "ethusdt@markPrice@1s"}


async def test_the_mode_can_be_changed_while_it_runs() -> None:
    async with running() as exchange, exchange.socket("/market/ws/btcusdt@markPrice@1s") as socket:
        assert await asked(socket, "GET_PROPERTY", ["combined"]) == {"result": False, "id": 1}
        assert await asked(socket, "SET_PROPERTY", ["combined", True]) == {"result": None, "id": 1}
        await exchange.forward(1)
        assert (await told(socket))["stream"] == "btcusdt@markPrice@1s"


async def test_what_is_unsubscribed_is_silent() -> None:
    async with running() as exchange, exchange.socket("/market/ws/btcusdt@markPrice@1s") as socket:
        await asked(socket, "UNSUBSCRIBE", ["btcusdt@markPrice@1s"])
        await drained(socket)
        await exchange.forward(5)
        assert await drained(socket) == []


async def test_chinese_names_are_echoed_as_they_were_asked() -> None:
    path = "/market/stream?streams=币安人生usdt@markPrice@1s"
    async with running("币安人生USDT") as exchange, exchange.socket(path) as socket:
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
        await exchange.forward(1)
        message = await told(socket)
        assert (message["stream"], message["data"]["s"]) == ("币安人生usdt@markPrice@1s", "币安人生USDT")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":"x"}', 2),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":-1}', 2),
        ('{"method":"SUBSCRIBE","params":["a@trade"]}', 2),
        ('{"method":"SUBSCRIBE","id":1}', 2),
        ('{"method":"SUBSCRIBE","params":[7],"id":1}', 2),
        ('{"method":"NOTHING","params":[],"id":1}', 2),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1),
        ('{"method":"SET_PROPERTY","params":["combined",true,true],"id":1}', 2),
        ('{"method":"GET_PROPERTY","params":["colour"],"id":1}', 0),
        ("[]", 2),
    ],
)
async def test_bad_requests_are_answered_and_the_socket_lives(message: str, code: int) -> None:
    async with running() as exchange, exchange.socket("/market/ws") as socket:
        await socket.send(message)
        answer = await told(socket)
        assert answer["error"]["code"] == code
        assert ("id" in answer) == ('"id":1' in message)
        assert (await asked(socket, "LIST_SUBSCRIPTIONS", None))["result"] == []


async def test_invalid_json_ends_the_socket() -> None:
    async with running() as exchange, exchange.socket("/market/ws") as socket:
        await socket.send("{nonsense")
        assert (await told(socket))["error"]["code"] == 3
        assert (await closed(socket))[0] == 1008


async def test_the_1025th_stream_kills_all_of_them() -> None:
    async with running() as exchange, exchange.socket("/market/ws") as socket:
        for start in range(0, 1_024, 256):
            names = [f"s{number}usdt@aggTrade" for number in range(start, start + 256)]
            assert await asked(socket, "SUBSCRIBE", names) == {"result": None, "id": 1}
        assert await asked(socket, "SUBSCRIBE", ["s0usdt@aggTrade"]) == {"result": None, "id": 1}
        answer = await asked(socket, "SUBSCRIBE", ["one@more"])
        assert answer == {"error": {"code": 4, "msg": "Too many subscriptions"}}
        assert await closed(socket) == (1008, "Invalid request")


async def test_a_burst_of_15_messages_is_answered_and_more_end_the_socket() -> None:
    message = json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1})
    async with running() as exchange:
        async with exchange.socket("/market/ws") as socket:
            for _ in range(15):
                await socket.send(message)
            for _ in range(15):
                assert (await told(socket))["result"] == []
            await exchange.forward(1)
            await socket.send(message)
            assert (await told(socket))["result"] == []
        async with exchange.socket("/market/ws") as socket:
            for _ in range(40):
                await socket.send(message)
            answers = 0
            with pytest.raises(ConnectionClosed) as end:
                while True:
                    await told(socket)
                    answers += 1
            assert answers == 15
            assert (end.value.rcvd.code, end.value.rcvd.reason) == (1008, "Too many requests")


async def test_pings_from_the_client_count_and_are_answered() -> None:
    async with running() as exchange, exchange.socket("/market/ws") as socket:
        async with asyncio.timeout(5):
            await (await socket.ping(b"hello"))
        for _ in range(30):
            await socket.ping()
        assert await closed(socket) == (1008, "Too many requests")


async def test_the_server_pings_with_its_milliseconds_and_leaves_who_is_dead() -> None:
    async with running(rules=SocketRules(ping_every_s=3, pong_within_s=10)) as exchange:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(exchange.address.rsplit(":", 1)[1]))
        writer.write(
            b"GET /market/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"101" in head.splitlines()[0]
            await exchange.forward(3)
            assert await reader.readexactly(2) == b"\x89\x0d"
            assert int(await reader.readexactly(13)) == exchange.exchange.clock.now_ms()
            for _ in range(5):
                await exchange.forward(3)
            rest = await reader.read()
        assert b"\x88" in rest
        writer.close()


async def test_who_answers_pings_stays_and_is_cut_after_a_day() -> None:
    rules = SocketRules(ping_every_s=60, pong_within_s=200, life_ms=3_600_000)
    async with running(rules=rules) as exchange, exchange.socket("/market/ws", ping_interval=None) as socket:
        for _ in range(11):
            await exchange.forward(300)
            await asked(socket, "LIST_SUBSCRIPTIONS", None)
        await exchange.forward(301)
        assert (await closed(socket))[0] == 1001


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ws?btcusdt@trade", 400), ("/nothing/ws", 400), ("/market/other", 400), ("/stream/btcusdt@trade", 400),
        ("/market/stream?streams=" + "/".join(f"symbol{n}usdt@aggTrade" for n in range(600)), 414),
    ],
)  # fmt: skip
async def test_paths_that_are_none_are_refused(path: str, status: int) -> None:
    async with running() as exchange:
        with pytest.raises(InvalidStatus) as no:
            await exchange.socket(path)
        assert no.value.response.status_code == status


async def test_two_sockets_of_one_route_hear_the_same() -> None:
    path = "/public/ws/btcusdt@trade/btcusdt@bookTicker/btcusdt@depth@100ms"
    async with running() as exchange, exchange.socket(path) as one, exchange.socket(path) as other:
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 2)
        for _ in range(5):
            await exchange.forward(1)
        heard = await drained(one)
        assert len(heard) > 100
        assert heard == await drained(other)
        assert [message["E"] for message in heard] == sorted(message["E"] for message in heard)


async def test_a_socket_that_leaves_is_forgotten() -> None:
    async with running() as exchange:
        async with exchange.socket("/public/ws/btcusdt@trade"):
            await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 0)


async def test_a_faster_clock_sends_faster() -> None:
    async with running(speed=60.0) as exchange, exchange.socket("/market/ws/btcusdt@markPrice@1s") as socket:
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
        await exchange.forward(1)
        events = await drained(socket)
        assert len(events) == 60
        assert events[-1]["E"] - events[0]["E"] == 59_000
