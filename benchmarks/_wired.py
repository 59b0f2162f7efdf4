"""Ingest as the running service wires it, for benchmarks: decode, screen, shed, store, watch."""

import asyncio
from collections.abc import Sequence

from data_manager.adapters.binance.wire import DATASET_OF, LABELLED, Decoder
from data_manager.adapters.binance.wire_paths import path_of
from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_stream import StreamOptions
from data_manager.adapters.bus.opening import open_bus
from data_manager.adapters.bus.publisher import open_publisher
from data_manager.adapters.clock import SystemClock
from data_manager.domain.batch import Batch
from data_manager.ports import Bus, DeadLetter
from data_manager.services.dead_letters.burying import KeepDead
from data_manager.services.ingest import Append, Ports
from data_manager.services.ingesting.dropping import Losses
from data_manager.services.ingesting.labels import Labels
from data_manager.services.ingesting.screen import Screen
from data_manager.services.ingesting.shedding import Shedding
from data_manager.services.watch import Watch
from data_manager.telemetry import Tally

CLOCK = SystemClock()


async def no_dead(letters: Sequence[DeadLetter]) -> None:
    """Nothing that is sent here may end so."""
    raise AssertionError(letters[0].message)


def wired(bus: Bus, append: Append, tally: Tally, keep_dead: KeepDead = no_dead) -> Ports:
    """What the service hands to ingest()."""
    losses = Losses(Decoder("um"), DATASET_OF, "um", CLOCK)
    watch = Watch(CLOCK, tally, lambda _: None)
    shedding = Shedding(0, losses.shed)

    def saw(batch: Batch) -> None:
        watch.saw(batch)
        losses.saw(batch)

    return Ports(
        bus,
        Decoder("um"),
        append,
        keep_dead,
        CLOCK,
        saw=saw,
        let_go=losses.note,
        screen=Screen(Labels("um", LABELLED, CLOCK)),
        path_of=path_of,
        shed=shedding.take,
    )


async def opened_bus(url: str, durable: str, stream: str = "MARKET_EVENTS") -> Bus:
    """A connected bus on a consumer of that name; the stream captures the subject of its own name."""
    options = StreamOptions(stream=stream, durable=durable)
    bus = open_bus(NatsAccess(urls=(url,)), subject_of(stream), mode="jetstream", clock=CLOCK, stream=options)
    while not (await bus.state()).connected:
        await asyncio.sleep(0.01)
    return bus


def subject_of(stream: str) -> str:
    """What the stream captures."""
    return f"bench.{stream.lower()}"


async def filled(url: str, stream: str, payloads: Sequence[bytes]) -> None:
    """On return the stream holds these messages."""
    await (await opened_bus(url, "first", stream)).close()  # makes it
    async with open_publisher(NatsAccess(urls=(url,)), subject_of(stream)) as publisher:
        await publisher.publish(payloads)
        await publisher.confirm()
