"""Every bus keeps the port's promise, against real servers: JetStream, core NATS, and the one that chooses itself."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from data_manager.adapters.bus.connection import NatsAccess, NatsConnection, flush
from data_manager.adapters.bus.holding import Holding
from data_manager.adapters.bus.nats_core import CoreOptions, NatsCore
from data_manager.adapters.bus.nats_jetstream import NatsJetStream
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.nats_stream import NoJetStream, StreamOptions, covers
from data_manager.adapters.bus.opening import open_bus
from data_manager.domain.errors import BadSetting, Unavailable
from data_manager.ports import Bus, Clock, Delivery, Dropped
from tests.conftest import eventually
from tests.servers import (
    SteppingClock,
    WallClock,
    access_to,
    client_of,
    free_port,
    freeze,
    fresh,
    own_server,
    running_server,
    thaw,
)

QUIET_S = 0.05


@pytest.fixture(scope="session")
def with_jetstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("jetstream")) as server:
        yield server


@pytest.fixture(scope="session")
def without_jetstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("core"), jetstream=False) as server:
        yield server


def small_stream() -> StreamOptions:
    """A server sets aside what its streams may grow to: a shared one has no room for many of the usual size."""
    return StreamOptions(stream=fresh("EVENTS"), durable="ours", max_bytes=64 * 2**20)


@dataclass
class Place:
    """A subject on a server, and the buses that share it."""

    server: NatsServer
    mode: str
    subject: str = field(default_factory=lambda: fresh("market") + ".data")
    stream: StreamOptions = field(default_factory=small_stream)
    core: CoreOptions = field(default_factory=lambda: CoreOptions(queue="ours"))
    clock: Clock = field(default_factory=WallClock)

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """A bus, connecting in the background."""
        mode = self.mode if self.mode in ("jetstream", "core") else "auto"
        bus = open_bus(
            access_to(self.server), self.subject, mode=mode, clock=self.clock, stream=self.stream, core=self.core
        )
        try:
            yield bus
        finally:
            await bus.close()

    @asynccontextmanager
    async def ready_bus(self) -> AsyncIterator[Bus]:
        """A bus that takes deliveries by now."""
        async with self.bus() as bus:
            await connected(bus)
            yield bus


@pytest.fixture(params=["jetstream", "core", "auto-jetstream", "auto-core"])
def place(request: pytest.FixtureRequest) -> Place:
    name = "without_jetstream" if request.param.endswith("core") else "with_jetstream"
    return Place(request.getfixturevalue(name), request.param)


@pytest.fixture
def durable(with_jetstream: NatsServer) -> Place:
    return Place(with_jetstream, "jetstream")


async def connected(bus: Bus) -> None:
    async def is_connected() -> bool:
        return (await bus.state()).connected

    try:
        await eventually(is_connected, what="connected")
    except AssertionError as error:
        raise AssertionError((await bus.state()).reason) from error


async def publish(server: NatsServer, subject: str, payloads: Sequence[bytes]) -> None:
    """On return the server has them all."""
    async with client_of(server) as client:
        for payload in payloads:
            await client.publish(subject, payload)
        await flush(client, 10.0)


def numbered(n: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + n)]


def payloads_of(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.payload for delivery in deliveries]


async def take(bus: Bus, n: int, *, ack: bool = True, within_s: float = 10.0) -> list[Delivery]:
    """At least n deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(within_s):
        async for batch in bus.batches(QUIET_S):
            taken += batch
            if ack:
                await bus.ack(batch)
            if len(taken) >= n:
                break
    return taken


async def take_quietly(bus: Bus, *, quiet: int = 6) -> list[Delivery]:
    """Everything until nothing came for so many empty lists in a row. Nothing is acknowledged."""
    taken: list[Delivery] = []
    empty = 0
    async for batch in bus.batches(QUIET_S):
        taken += batch
        empty = 0 if batch else empty + 1
        if empty >= quiet:
            break
    return taken


# ---- every bus


async def test_what_is_published_comes_byte_for_byte_in_order(place: Place) -> None:
    payloads = [b"", b"\xff\x00\r\n", b"x" * 900_000, *numbered(5_000), '{"s":"币安人生USDT"}'.encode()]
    async with place.ready_bus() as bus:
        before_ms = place.clock.now_ms()
        await publish(place.server, place.subject, payloads)
        taken = await take(bus, len(payloads))
        assert payloads_of(taken) == payloads
        assert {delivery.subject for delivery in taken} == {place.subject}
        assert all(before_ms <= delivery.received_ms <= place.clock.now_ms() for delivery in taken)


async def test_quiet_gives_empty_lists_and_the_first_message_ends_it(place: Place) -> None:
    async with place.ready_bus() as bus:
        batches = bus.batches(QUIET_S)
        assert [await anext(batches), await anext(batches)] == [[], []]
        await publish(place.server, place.subject, [b"hello"])
        while not (batch := await anext(batches)):
            pass
        assert payloads_of(batch) == [b"hello"]


async def test_what_came_while_the_caller_was_busy_is_one_list(place: Place) -> None:
    async with place.ready_bus() as bus:
        batches = bus.batches(QUIET_S)
        await anext(batches)
        await publish(place.server, place.subject, numbered(1_000))
        sizes = []
        while sum(sizes) < 1_000:
            sizes.append(len(await anext(batches)))
            await asyncio.sleep(0.1)  # busy: this is the subject of the test, not a wait
        assert len([size for size in sizes if size]) <= 3


async def test_stop_hands_over_what_was_taken_and_ends(place: Place) -> None:
    place.stream = msgspec.structs.replace(place.stream, ack_wait_s=2.0)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(place.ready_bus())
        await publish(place.server, place.subject, numbered(3_000))
        first: list[Delivery] = []
        async for batch in bus.batches(QUIET_S):
            if batch and not first:
                bus.stop()
            first += batch
            await bus.ack(batch)
        await bus.close()
        if place.mode.endswith("jetstream"):  # what was not taken is there for the next one
            successor = await stack.enter_async_context(place.ready_bus())
            first += await take(successor, 3_000 - len(first))
        assert sorted(payloads_of(first), key=int) == numbered(3_000)
        assert (await bus.state()).dropped == 0


async def test_stop_without_a_server_ends_at_once() -> None:
    async with Place(NatsServer(Path("unused"), port=free_port()), "auto").bus() as bus:
        bus.stop()
        assert [batch async for batch in bus.batches(10.0)] == []


async def test_a_server_that_is_absent_at_start_is_waited_for(tmp_path: Path, place: Place) -> None:
    server = NatsServer(tmp_path, port=free_port(), jetstream=place.mode.endswith("jetstream"))
    place.server = server
    async with place.bus() as bus:
        assert await take_quietly(bus, quiet=3) == []
        state = await bus.state()
        assert not state.connected
        assert state.reason is not None
        assert "refused" in state.reason or "Connect" in state.reason
        try:
            await server.start()
            await connected(bus)
            await publish(server, place.subject, numbered(10))
            assert payloads_of(await take(bus, 10)) == numbered(10)
            assert (await bus.state()).reason is None
        finally:
            await server.stop()


async def test_two_share_the_work_and_nothing_comes_twice(place: Place) -> None:
    place.stream = msgspec.structs.replace(place.stream, in_flight_max=50)
    taken: dict[int, list[bytes]] = {0: [], 1: []}

    async def work(number: int, bus: Bus) -> None:
        async for batch in bus.batches(QUIET_S):
            taken[number] += payloads_of(batch)
            await bus.ack(batch)

    async with place.ready_bus() as one, place.ready_bus() as two, asyncio.TaskGroup() as group:
        group.create_task(work(0, one))
        group.create_task(work(1, two))
        await publish(place.server, place.subject, numbered(4_000))
        await eventually(lambda: len(taken[0]) + len(taken[1]) >= 4_000, what="all taken")
        one.stop()
        two.stop()
    assert sorted(taken[0] + taken[1], key=int) == numbered(4_000)
    assert taken[0]
    assert taken[1]


@pytest.mark.parametrize("mode", ["jetstream", "core"])
async def test_stop_and_close_do_not_wait_for_a_frozen_server(tmp_path: Path, mode: str) -> None:
    async with own_server(tmp_path, jetstream=mode == "jetstream") as server:
        place = Place(server, mode)
        async with place.ready_bus() as bus:
            await publish(server, place.subject, numbered(100))
            taken = await take(bus, 100, ack=False)
            freeze(server.pid)
            async with asyncio.timeout(6.0):
                bus.stop()
                assert not any([batch async for batch in bus.batches(QUIET_S)])
                await bus.ack(taken)
                await bus.close()
            thaw(server.pid)


@pytest.mark.parametrize("mode", ["jetstream", "core"])
async def test_acks_and_close_without_the_server_raise_nothing(tmp_path: Path, mode: str) -> None:
    async with own_server(tmp_path, jetstream=mode == "jetstream") as server:
        place = Place(server, mode)
        async with place.ready_bus() as bus:
            await publish(server, place.subject, numbered(100))
            taken = await take(bus, 100, ack=False)
            await server.kill()
            await bus.ack(taken)
            async with asyncio.timeout(3.0):
                await bus.close()


async def test_the_number_of_attempts_is_bounded_only_when_asked(tmp_path: Path) -> None:
    access = NatsAccess(urls=(f"nats://127.0.0.1:{free_port()}",), reconnect_wait_s=0.01, reconnect_attempts_max=2)
    bus = open_bus(access, "market.data", mode="auto", clock=WallClock())
    with pytest.raises(Unavailable, match="NATS_MAX_RECONNECT_ATTEMPTS"):
        await take(bus, 1)
    await bus.close()


async def test_credentials_are_used_and_their_refusal_is_told(tmp_path: Path) -> None:
    async with own_server(tmp_path, config='authorization { user: "us", password: "s3cret" }') as server:
        right = f"nats://us:s3cret@127.0.0.1:{server.port}"
        for url, user, password in ((right, None, None), (server.url, "us", "s3cret")):
            access = NatsAccess(urls=(url,), user=user, password=password)
            bus = open_bus(access, "market.data", mode="auto", clock=WallClock())
            await connected(bus)
            assert "s3cret" not in repr(access)
            await bus.close()
        bus = open_bus(access_to(server), "market.data", mode="auto", clock=WallClock())

        async def is_refused() -> bool:
            return "Authorization" in ((await bus.state()).reason or "")

        await eventually(is_refused, what="the refusal as the reason")
        await bus.close()


# ---- JetStream


async def test_what_is_acknowledged_does_not_come_again(durable: Place) -> None:
    durable.stream = msgspec.structs.replace(durable.stream, ack_wait_s=0.5)
    async with durable.ready_bus() as bus:
        await publish(durable.server, durable.subject, numbered(500))
        await take(bus, 500)
    async with durable.ready_bus() as bus:
        assert await take_quietly(bus, quiet=20) == []
        assert (await bus.state()).pending == 0


async def test_what_somebody_took_who_is_gone_comes_again(durable: Place) -> None:
    durable.stream = msgspec.structs.replace(durable.stream, ack_wait_s=0.5)
    async with durable.ready_bus() as bus:
        bus.stop()  # stream and consumer are made
    await publish(durable.server, durable.subject, numbered(10))
    async with client_of(durable.server) as client:
        js = client.jetstream()
        pull = await js.pull_subscribe_bind(durable.stream.durable, durable.stream.stream)
        taken = await pull.fetch(10)
        for one in taken[:4]:
            await one.ack_sync()
    async with durable.ready_bus() as bus:
        again = await take(bus, 6)
        assert sorted(payloads_of(again), key=int) == [one.data for one in taken[4:]]


async def test_what_is_held_for_long_does_not_come_again_meanwhile(durable: Place) -> None:
    """A store may take longer than ack_wait_s; a replica that is there sees nothing of it."""
    durable.stream = msgspec.structs.replace(durable.stream, ack_wait_s=0.5)
    async with durable.ready_bus() as bus, client_of(durable.server) as client:
        await publish(durable.server, durable.subject, numbered(10))
        held = await take(bus, 10, ack=False)
        async with durable.ready_bus() as other:
            lists = other.batches(QUIET_S)
            assert [await anext(lists) for _ in range(30)] == [[]] * 30  # 1.5 s
        await bus.ack(held)
        await nothing_owed(client, durable)


def test_a_hold_ends_after_ten_waits() -> None:
    holding = Holding(3.0)
    assert holding.interval_s == 1.0
    assert holding.due(["a"]) == []  # it just came
    words = [holding.due(["a", "b"]) for _ in range(40)]
    assert words[0] == ["a"]
    assert words[1] == words[28] == ["a", "b"]
    assert words[29:] == [["b"], *[[]] * 10]
    assert holding.due([]) == holding.due(["a"]) == []
    assert holding.due(["a"]) == ["a"]


async def test_close_gives_back_what_is_not_acknowledged_at_once(durable: Place) -> None:
    async with durable.ready_bus() as bus:
        await publish(durable.server, durable.subject, numbered(10))
        await take(bus, 10, ack=False)
    async with durable.ready_bus() as bus:  # ack_wait_s is 30: nobody waits for that here
        assert sorted(payloads_of(await take(bus, 10, within_s=5.0)), key=int) == numbered(10)


async def nothing_owed(client: Client, place: Place) -> None:
    """Return when the server has read all acks; fail when it still waits for some."""

    async def is_so() -> bool:
        info = await client.jetstream().consumer_info(place.stream.stream, place.stream.durable)
        return info.num_ack_pending == 0

    await eventually(is_so, within_s=3.0, what="every delivery is acknowledged")


async def test_stopping_in_the_midst_leaves_nothing_with_the_server_as_delivered(durable: Place) -> None:
    """ack_wait_s is 30: what the server thinks delivered, and we never got, would be late by so much."""
    taken: list[Delivery] = []
    async with client_of(durable.server) as client:
        async with durable.ready_bus():
            pass  # the stream is there
        for start in range(0, 80_000, 10_000):
            await publish(durable.server, durable.subject, numbered(10_000, start))
            async with durable.bus() as bus:
                async for batch in bus.batches(QUIET_S):
                    taken += batch
                    if batch:
                        bus.stop()  # the server has just begun to send
                    await bus.ack(batch)
            await nothing_owed(client, durable)
    assert len({delivery.payload for delivery in taken}) == len(taken)


@asynccontextmanager
async def lagging_line(server: NatsServer) -> AsyncIterator[NatsServer]:
    """The server behind a line on which what follows a PING comes 0.3 s after it."""
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lag_s: float) -> None:
        try:
            while data := await reader.read(65_536):
                before, ping, after = data.partition(b"PING\r\n")
                writer.write(before + ping)
                if ping:
                    await asyncio.sleep(lag_s)  # this is the subject of the test, not a wait
                writer.write(after)
                await writer.drain()
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", server.port)
        pumps.add(asyncio.create_task(pump(reader, back_writer, 0.3)))
        pumps.add(asyncio.create_task(pump(back_reader, writer, 0.0)))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield NatsServer(server.folder, port=listening.sockets[0].getsockname()[1])
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def test_what_the_server_sends_until_it_reads_that_we_leave_is_handed_over(durable: Place) -> None:
    async with (
        lagging_line(durable.server) as line,
        Place(line, "jetstream", durable.subject, durable.stream).ready_bus() as bus,
    ):
        bus.stop()
        await publish(durable.server, durable.subject, numbered(100))
        taken = [delivery async for batch in bus.batches(QUIET_S) for delivery in batch]
        await bus.ack(taken)
    async with durable.ready_bus() as bus:  # ack_wait_s is 30: nobody waits for that here
        taken += await take(bus, 100 - len(taken), within_s=5.0)
    assert payloads_of(taken) == numbered(100)


async def test_a_slow_caller_holds_no_more_than_the_bound(durable: Place) -> None:
    durable.stream = msgspec.structs.replace(durable.stream, in_flight_max=100)
    async with durable.ready_bus() as bus:
        await publish(durable.server, durable.subject, numbered(1_000))
        held = await take_quietly(bus)
        assert payloads_of(held) == numbered(100)
        assert (await bus.state()).pending == 900
        await bus.ack(held[:30])

        async def told_of() -> bool:
            return (await bus.state()).pending == 900

        await eventually(told_of, what="what came and was not taken yet, besides what the server holds")
        more = await take_quietly(bus)
        assert payloads_of(more) == numbered(30, start=100)
        await bus.ack(held[:30])  # twice is once: these make no more room
        assert await take_quietly(bus) == []
        await bus.ack(held[30:] + more)
        assert payloads_of(await take(bus, 870)) == numbered(870, start=130)


async def test_large_messages_are_bounded_by_their_bytes(durable: Place) -> None:
    durable.stream = msgspec.structs.replace(durable.stream, in_flight_bytes_max=4 * 2**20)
    payloads = [b"%03d" % number + b"x" * 500_000 for number in range(40)]
    async with durable.ready_bus() as bus:
        await publish(durable.server, durable.subject, payloads)
        held = await take_quietly(bus)
        assert 2 <= len(held) <= 8
        await bus.ack(held)
        held += await take(bus, 40 - len(held))
        assert sorted(payloads_of(held)) == payloads


async def test_nothing_is_lost_when_the_server_is_killed_under_load(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        place = Place(server, "jetstream")
        place.stream = msgspec.structs.replace(place.stream, ack_wait_s=1.0)
        stored: list[bytes] = []
        taken: set[bytes] = set()

        async def publish_on(client: Client) -> None:
            """Only what the server has confirmed counts as stored."""
            js = client.jetstream(timeout=1.0)
            for payload in numbered(3_000):
                try:
                    await js.publish(place.subject, payload)
                except NatsError:
                    continue
                stored.append(payload)

        async def consume(bus: Bus) -> None:
            async for batch in bus.batches(QUIET_S):
                taken.update(payloads_of(batch))
                await bus.ack(batch)

        async with place.ready_bus() as bus, client_of(server) as client, asyncio.TaskGroup() as group:
            publishing = group.create_task(publish_on(client))
            group.create_task(consume(bus))
            for least in (500, 1_000):
                await eventually(lambda least=least: len(taken) >= least, what=f"{least} taken")
                await server.kill()
                await server.start()
            await publishing
            await eventually(lambda: taken >= set(stored), within_s=20, what="everything stored is taken")
            assert (await bus.state()).reconnects == 2
            bus.stop()
        assert len(stored) > 1_500


async def test_a_server_that_falls_silent_is_noticed_and_taken_back(tmp_path: Path) -> None:
    async with own_server(tmp_path) as server:
        place = Place(server, "jetstream")
        place.stream = msgspec.structs.replace(place.stream, heartbeat_s=0.2)
        async with place.ready_bus() as bus:
            freeze(server.pid)

            async def is_noticed() -> bool:
                return not (await bus.state()).connected

            await eventually(is_noticed, what="the silence noticed")
            assert (await bus.state()).reason == "JetStream: no answer in time"
            thaw(server.pid)
            await connected(bus)
            await publish(server, place.subject, numbered(10))
            assert payloads_of(await take(bus, 10)) == numbered(10)


async def test_a_deleted_consumer_is_made_again_and_all_comes_again(durable: Place) -> None:
    async with durable.ready_bus() as bus, client_of(durable.server) as client:
        await publish(durable.server, durable.subject, numbered(10))
        await take(bus, 10)
        await client.jetstream().delete_consumer(durable.stream.stream, durable.stream.durable)
        assert payloads_of(await take(bus, 10)) == numbered(10)


async def test_acks_for_a_stream_that_is_gone_touch_nothing_of_the_new_one(durable: Place) -> None:
    durable.stream = msgspec.structs.replace(durable.stream, ack_wait_s=0.5)
    async with durable.ready_bus() as bus, client_of(durable.server) as client:
        await publish(durable.server, durable.subject, numbered(5))
        old = await take(bus, 5, ack=False)
        await client.jetstream().delete_stream(durable.stream.stream)

        async def is_there_again() -> bool:
            return (await bus.state()).pending == 0

        await eventually(is_there_again, what="stream and consumer made again")
        await publish(durable.server, durable.subject, numbered(5, start=100))
        new = await take(bus, 5, ack=False)
        assert payloads_of(new) == numbered(5, start=100)
        await bus.ack(old)
        await flush(client, 5.0)
        info = await client.jetstream().consumer_info(durable.stream.stream, durable.stream.durable)
        assert info.num_ack_pending == 5
        await bus.ack(new)
        await nothing_owed(client, durable)


async def test_a_stream_that_exists_is_used_as_it_is(durable: Place) -> None:
    async with client_of(durable.server) as client:
        js = client.jetstream()
        wider = durable.subject.replace(".data", ".*")
        await js.add_stream(name=durable.stream.stream, subjects=[wider], max_msgs=1_000, storage="memory")
        async with durable.ready_bus() as bus:
            await publish(durable.server, durable.subject, numbered(10))
            assert payloads_of(await take(bus, 10)) == numbered(10)
        config = (await js.stream_info(durable.stream.stream)).config
        assert (config.subjects, config.max_msgs, config.storage) == ([wider], 1_000, "memory")


async def test_a_stream_without_our_subject_is_refused(durable: Place) -> None:
    async with client_of(durable.server) as client:
        await client.jetstream().add_stream(name=durable.stream.stream, subjects=[fresh("other")])
        async with durable.bus() as bus:
            with pytest.raises(BadSetting, match=f"NATS_STREAM='{durable.stream.stream}'.*{durable.subject}"):
                await take(bus, 1)


async def test_a_subject_that_another_stream_has_is_refused_and_that_stream_named(durable: Place) -> None:
    other = fresh("OTHER")
    async with client_of(durable.server) as client:
        await client.jetstream().add_stream(name=other, subjects=[durable.subject])
        async with durable.bus() as bus:
            with pytest.raises(BadSetting, match=f"set NATS_STREAM={other}"):
                await take(bus, 1)


async def test_a_server_with_less_room_gets_a_smaller_stream_where_no_size_was_asked_for(tmp_path: Path) -> None:
    config = f'jetstream {{ store_dir: "{tmp_path}", max_file_store: 100MB }}'
    async with own_server(tmp_path, jetstream=False, config=config) as server:
        place = Place(server, "auto")
        place.stream = msgspec.structs.replace(place.stream, max_bytes=2**31, or_less=True)
        async with place.ready_bus():
            pass
        async with client_of(server) as client:
            made = await client.jetstream().stream_info(place.stream.stream)
            assert made.config.max_bytes == 64 * 2**20
        async with place.ready_bus() as bus:
            await publish(server, place.subject, numbered(3))
            assert len(await take(bus, 3)) == 3


async def test_a_server_without_room_for_the_stream_is_told_with_the_setting(tmp_path: Path) -> None:
    config = f'jetstream {{ store_dir: "{tmp_path}", max_file_store: 10MB }}'
    async with own_server(tmp_path, jetstream=False, config=config) as server, Place(server, "auto").bus() as bus:
        with pytest.raises(BadSetting, match="NATS_STREAM_MAX_BYTES"):
            await take(bus, 1)
        state = await bus.state()
        assert not state.connected
        assert "NATS_STREAM_MAX_BYTES" in (state.reason or "")


async def test_a_consumer_that_acknowledges_otherwise_is_refused(durable: Place) -> None:
    async with client_of(durable.server) as client:
        js = client.jetstream()
        await js.add_stream(name=durable.stream.stream, subjects=[durable.subject])
        await js.add_consumer(durable.stream.stream, durable_name=durable.stream.durable, ack_policy="all")
        async with durable.bus() as bus:
            with pytest.raises(BadSetting, match=r"NATS_CONSUMER.*explicit"):
                await take(bus, 1)


async def test_a_server_without_jetstream_is_refused_when_it_was_asked_for(without_jetstream: NatsServer) -> None:
    async with Place(without_jetstream, "jetstream").bus() as bus:
        with pytest.raises(NoJetStream, match="NATS_MODE"):
            await take(bus, 1)


async def test_the_state_says_which_promise_holds(place: Place) -> None:
    async with place.ready_bus() as bus:
        state = await bus.state()
        assert state.durable == place.mode.endswith("jetstream")
        assert (state.pending is not None) == state.durable


async def test_what_the_stream_discards_unread_is_told(durable: Place) -> None:
    durable.stream = msgspec.structs.replace(durable.stream, in_flight_max=10)
    async with client_of(durable.server) as client:
        await client.jetstream().add_stream(name=durable.stream.stream, subjects=[durable.subject], max_msgs=100)
        async with durable.ready_bus() as bus:
            await publish(durable.server, durable.subject, numbered(10))
            held = await take(bus, 10, ack=False)
            await publish(durable.server, durable.subject, numbered(250, start=10))
            await dropped(bus, 150)
            drops = bus.drops()
            assert sum(drop.count for drop in drops) == 150
            assert drops[0].first_ms <= held[-1].received_ms <= drops[-1].last_ms <= durable.clock.now_ms()
            assert bus.drops() == []
            await bus.ack(held)
            assert payloads_of(await take(bus, 100)) == numbered(100, start=160)
            assert (await bus.state()).dropped == 150


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.b", "a.b", True), ("a.b", "a.c", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False), (">", "a.b", True),
        ("a.>", "a.b.c", True), ("a.>", "a", False), ("a.b", "a.*", False), ("a.*", "a.*", True), ("a.*", "a.>", False),
        ("a.>", "a.>", True), ("a.>", "a.*", True), ("a", "a.b", False), ("a.b.c", "a.b", False),
    ],
)  # fmt: skip
def test_which_patterns_cover_which_subjects(pattern: str, subject: str, covered: bool) -> None:
    assert covers(pattern, subject) == covered


# ---- core


@asynccontextmanager
async def core_bus(server: NatsServer, options: CoreOptions, clock: Clock) -> AsyncIterator[tuple[NatsCore, str]]:
    subject = fresh("market")
    bus = NatsCore(NatsConnection(access_to(server)), subject, clock=clock, options=options)
    bus.start()
    await connected(bus)
    try:
        yield bus, subject
    finally:
        await bus.close()


async def dropped(bus: Bus, n: int) -> None:
    async def is_so() -> bool:
        return (await bus.state()).dropped == n

    await eventually(is_so, what=f"{n} dropped")


async def test_overflow_drops_the_oldest_counted_with_their_span(without_jetstream: NatsServer) -> None:
    clock = SteppingClock()
    async with core_bus(without_jetstream, CoreOptions(rows_max=100), clock) as (bus, subject):
        begin_ms = clock.at_ms
        await publish(without_jetstream, subject, numbered(250))
        await dropped(bus, 150)
        assert bus.drops() == [Dropped(150, begin_ms + 1, begin_ms + 150)]  # the clock moves 1 ms with each message
        kept = await take(bus, 100)
        assert payloads_of(kept) == numbered(100, start=150)
        assert [one.received_ms for one in kept] == list(range(begin_ms + 151, begin_ms + 251))


async def test_drops_on_both_sides_of_what_was_handed_over_are_two_spans(without_jetstream: NatsServer) -> None:
    clock = SteppingClock()
    async with core_bus(without_jetstream, CoreOptions(rows_max=10), clock) as (bus, subject):
        begin_ms = clock.at_ms
        await publish(without_jetstream, subject, numbered(15))
        await dropped(bus, 5)
        assert payloads_of(await take(bus, 10)) == numbered(10, start=5)
        await publish(without_jetstream, subject, numbered(12, start=15))
        await dropped(bus, 7)
        assert bus.drops() == [Dropped(5, begin_ms + 1, begin_ms + 5), Dropped(2, begin_ms + 16, begin_ms + 17)]
        assert bus.drops() == []


async def test_the_bytes_that_wait_are_bounded(without_jetstream: NatsServer) -> None:
    async with core_bus(without_jetstream, CoreOptions(bytes_max=10_000), WallClock()) as (bus, subject):
        await publish(without_jetstream, subject, [b"x" * 1_000] * 25)
        await dropped(bus, 15)
        assert len(await take(bus, 10)) == 10


async def test_an_absence_is_told_as_a_drop_of_unknown_size(tmp_path: Path) -> None:
    async with own_server(tmp_path, jetstream=False) as server:
        clock = SteppingClock()
        away: list[Dropped] = []
        async with core_bus(server, CoreOptions(show_away=away.append), clock) as (bus, subject):
            await publish(server, subject, numbered(3))
            heard_ms = (await take(bus, 3))[-1].received_ms
            await server.kill()
            await server.start()

            async def is_back() -> bool:
                return (await bus.state()).reconnects == 1

            await eventually(is_back, what="connected again")
            assert (await bus.state()).errors_by_type["connection"] >= 1
            (absence,) = bus.drops()
            assert absence.count == 0
            assert absence.first_ms <= heard_ms < absence.last_ms <= clock.at_ms
            await publish(server, subject, numbered(3))
            again = await take(bus, 3)
            assert payloads_of(again) == numbered(3)
            assert {one.first_ms for one in away} == {absence.first_ms}
            assert heard_ms < away[-1].last_ms < again[0].received_ms


async def test_what_passed_since_an_earlier_run_is_an_absence_too(without_jetstream: NatsServer) -> None:
    away: list[Dropped] = []
    options = CoreOptions(show_away=away.append)
    bus = NatsCore(
        NatsConnection(access_to(without_jetstream)), fresh("market"), clock=SteppingClock(), options=options
    )
    assert bus.missed_since(1_234) is None, "it tells by itself, when it listens"
    bus.start()
    await connected(bus)
    [absence] = bus.drops()
    assert (absence.count, absence.first_ms, absence.why) == (0, 1_234, "away")
    assert [one.first_ms for one in away] == [1_234]
    await bus.close()


async def test_what_passed_since_an_earlier_run_may_be_asked_for_later(without_jetstream: NatsServer) -> None:
    """A store that comes up after the bus says only then when the earlier run was."""
    options, clock = CoreOptions(), SteppingClock()
    async with core_bus(without_jetstream, options, clock) as (bus, subject):
        await publish(without_jetstream, subject, numbered(3))
        received_ms = (await take(bus, 3))[0].received_ms
        missed = bus.missed_since(1_234)
        [absence] = bus.drops()
        assert missed is not None
        assert (missed.count, missed.first_ms, missed.why) == (0, 1_234, "away")
        assert (absence.count, absence.first_ms, absence.why) == (0, 1_234, "away")
        assert missed.last_ms < absence.last_ms < received_ms


async def test_a_bus_with_memory_missed_nothing(durable: Place) -> None:
    async with durable.ready_bus() as bus:
        assert bus.missed_since(1_234) is None
        assert bus.drops() == []


async def test_a_flood_stays_within_bounds_and_every_message_is_accounted_for(without_jetstream: NatsServer) -> None:
    async with core_bus(without_jetstream, CoreOptions(rows_max=1_000), WallClock()) as (bus, subject):
        taken = 0

        async def consume() -> None:
            nonlocal taken
            async for batch in bus.batches(QUIET_S):
                assert len(batch) <= 1_000
                taken += len(batch)
                await asyncio.sleep(0.02)  # too slow: this is the subject of the test, not a wait

        async with asyncio.TaskGroup() as group:
            group.create_task(consume())
            for payloads in itertools.repeat(numbered(5_000), 6):
                await publish(without_jetstream, subject, payloads)

            async def is_all() -> bool:
                return taken + (await bus.state()).dropped == 30_000

            await eventually(is_all, what="taken + dropped = published")
            bus.stop()
        assert sum(drop.count for drop in bus.drops()) == 30_000 - taken > 0


async def test_jetstream_reports_what_is_in_hand(durable: Place) -> None:
    connection = NatsConnection(access_to(durable.server))
    bus = NatsJetStream(connection, durable.subject, clock=durable.clock, options=durable.stream)
    bus.start()
    await connected(bus)
    await publish(durable.server, durable.subject, numbered(10))
    taken = await take(bus, 10, ack=False)
    assert bus.in_hand == 10
    await bus.ack(taken[:4])
    assert bus.in_hand == 6
    await bus.close()
