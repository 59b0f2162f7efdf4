"""A cluster whose servers may be killed, and what was published to it by now.

A test takes the next messages of a recording, breaks something while they are published, and asks at its end for all of
it: so one cluster serves all tests of a module, and each of them also shows that those before it left nothing broken.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_manager.adapters.bus.nats_server import NatsServer
from tests.cluster import Cluster
from tests.conftest import eventually
from tests.faults.conftest import Told
from tests.mongo_server import MongoServer
from tests.mysql_server import MySqlServer
from tests.servers import free_port
from tests.service import Service, connected, publish
from tests.truth import Line, rows_of

SERVERS = ("mongo", "mysql", "nats")
REASONS = {"mongo": "store", "mysql": "metadata", "nats": "nats"}


def few_books(lines: Iterable[Line]) -> list[Line]:
    """Without nine of ten book changes: the stand-in for MongoDB reads a whole collection to find one document in it,
    and theirs are the largest."""
    return [line for number, line in enumerate(lines) if line.data.get("e") != "depthUpdate" or number % 10 == 0]


def _kind(line: Line) -> object:
    """What two lines have in common that end in one collection; an open candle ends in another than a closed one."""
    return line.data.get("e"), line.data.get("s"), line.data.get("k", {}).get("x")


class Stage:
    """Servers of our own, started, and a cluster on them. garbage: so many messages were none."""

    def __init__(self, folder: Path, mongod: str, lines: Sequence[Line], **settings: object) -> None:
        """settings: of every service. Make it outside of any event loop."""
        self.nats = NatsServer(folder / "nats", port=free_port())
        self.mongo = MongoServer(folder / "mongo", mongod)
        self.mysql = MySqlServer(folder / "mysql")
        self.published: list[Line] = []
        self.garbage = 0
        self._waiting = list(lines)
        self.mongo.start()
        self.mysql.start()
        asyncio.run(self.nats.start())
        databases = self.mongo.access(), asyncio.run(self.mysql.fresh())
        self.cluster = Cluster(folder, self.nats.url, *databases, **settings)

    async def open(self, *services: str) -> None:
        """Start the services, and let them store a row of every series.

        The stand-in for MongoDB makes a collection in two steps: killed between them, it never gets it right again.
        """
        await self.cluster.start(*services)
        first: dict[object, Line] = {}
        for line in self._waiting:
            first.setdefault(_kind(line), line)
        taken = set(map(id, first.values()))
        self._waiting = [*first.values(), *(line for line in self._waiting if id(line) not in taken)]
        await self.publish(self.next(len(first)))
        await self.cluster.drained()

    def close(self) -> None:
        """End everything."""
        self.cluster.close()
        self.mongo.kill()
        self.mysql.kill()
        asyncio.run(self.nats.kill())

    # ---- what is published -----------------------------------------------------------------------------------------

    def next(self, count: int, *, garbage: int = 0) -> list[bytes]:
        """The next so many messages to publish, some garbage spread among them."""
        some, self._waiting = self._waiting[:count], self._waiting[count:]
        assert len(some) == count, "the recording is too short for these tests"
        self.published += some
        payloads = [line.enveloped for line in some]
        for number in range(garbage):
            payloads.insert((number + 1) * len(payloads) // (garbage + 1), b"garbage %d" % (self.garbage + number))
        self.garbage += garbage
        return payloads

    async def publish(self, payloads: Sequence[bytes]) -> None:
        """All of them, at once."""
        async with connected(self.nats.url) as client:
            await publish(client, self.subject, payloads)

    @property
    def subject(self) -> str:
        """Where to."""
        return self.some_replica.subject

    @property
    def some_replica(self) -> Service:
        """One that runs."""
        return self.cluster.all("ingest")[0]

    @property
    def rows(self) -> int:
        """So many have to be held."""
        return sum(map(len, rows_of(self.published).values()))

    # ---- what is broken --------------------------------------------------------------------------------------------

    async def kill(self, server: str) -> None:
        """SIGKILL."""
        if server == "nats":
            await self.nats.kill()
        else:
            (self.mongo if server == "mongo" else self.mysql).kill()

    async def start(self, server: str) -> None:
        """On the same port, with the same files."""
        if server == "nats":
            await self.nats.start()
        else:
            await asyncio.to_thread((self.mongo if server == "mongo" else self.mysql).start)

    def refuses(self, service: Service, server: str) -> bool:
        """Whether it is not ready, because of that server."""
        answer = service.get("/health/readiness")
        return answer.status_code == 503 and any(
            one.startswith(f"{REASONS[server]}: ") for one in answer.json()["reasons"]
        )

    # ---- what has to be true afterwards ----------------------------------------------------------------------------

    async def settled(self, told: Told) -> None:
        """Everything published is held, once and as it was, with the law and the dead letters; nothing was let go."""
        await self.cluster.drained()
        self.cluster.require_law()
        assert self.cluster.sum_of("events_dropped_total") == 0
        await self.cluster.require(rows_of(self.published))

        def letters() -> int:
            found = self.cluster.api.get("/dead-letters", limit=1_000, reason="undecodable")
            return int(found.json()["pagination"]["total"]) if found.status_code == 200 else -1

        await eventually(lambda: letters() == self.garbage, what=f"all {self.garbage} dead letters, not {letters()}")
        told(published=len(self.published), dead_letters=self.garbage)
