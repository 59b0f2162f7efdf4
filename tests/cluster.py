"""The cluster: real services of every role on one nats-server, one server of MongoDB's protocol and one MariaDB.

A test module makes its servers and a Cluster once, starts the services it needs, and asks for all of what was published
at its end. What the cluster holds is asked of a role api, never of a file.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.mongo.access import MongoAccess
from data_manager.adapters.mongo.store import open_mongo
from data_manager.domain.finding import Finding
from tests.account import compared
from tests.conftest import eventually
from tests.mongo_server import AnyServer
from tests.mysql_server import MySqlServer
from tests.servers import fresh
from tests.service import Service, asked, connected, drained

FIGURES = ("rows_new_total", "rows_changed_total", "rows_duplicate_total", "messages_failed_total")


class Cluster:
    """Where its servers are, and the services that were told of them."""

    def __init__(self, folder: Path, nats_url: str, mongo: MongoAccess, mysql_url: str, **settings: object) -> None:
        """settings: of every service, by field name of Settings."""
        self.folder = folder
        self.nats_url = nats_url
        self.mongo = mongo
        self.mysql_url = mysql_url
        self.services: dict[str, Service] = {}
        names = {"nats_stream": fresh("CLUSTER"), "nats_consumer_subject": fresh("cluster.data")}
        databases = {"mongodb_url": mongo.url, "mongodb_db": mongo.database, "mysql_uri": mysql_url}
        self._settings: dict[str, object] = {**names, **databases, **settings}

    def service(self, name: str, **more: object) -> Service:
        """A service of the role that its name begins with, such as ingest-2; not started."""
        role, settings = name.partition("-")[0], {**self._settings, **more}
        program = settings.pop("program", ())
        assert isinstance(program, Sequence)
        arguments = ["--role", role]
        one = Service(self.folder / name, nats_url=self.nats_url, program=program, arguments=arguments, **settings)
        self.services[name] = one
        return one

    async def start(self, *names: str, **more: object) -> list[Service]:
        """Services of these names, started side by side and ready."""
        started = [self.service(name, **more) for name in names]
        await asyncio.gather(*(one.start() for one in started))
        return started

    def close(self) -> None:
        """End every service, however it stands."""
        for one in self.services.values():
            one.close()

    def all(self, role: str) -> list[Service]:
        """The running services of a role."""
        return [one for name, one in self.services.items() if name.partition("-")[0] == role and one.running]

    @property
    def api(self) -> Service:
        """One that answers questions."""
        return self.all("api")[0]

    # ---- what it does ----------------------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Return when everything the stream holds was stored and acknowledged by some replica."""
        async with connected(self.nats_url) as client:
            await drained(client, self.all("ingest")[0])

    def sum_of(self, figure: str, **labels: str) -> int:
        """A figure over all running ingest replicas."""
        return sum(one.figures().of(figure, **labels) for one in self.all("ingest"))

    def require_law(self) -> None:
        """received = new + changed + duplicate + rejected + dropped + in flight: in each replica, hence in all."""
        for one in self.all("ingest"):
            one.figures().require_law()

    async def held(self) -> list[str]:
        """Ids of all series that hold a row, as MongoDB has them."""
        store = await open_mongo(self.mongo)
        try:
            return [series.id for series in await store.series()]
        finally:
            await store.close()

    async def require(self, rows: Mapping[str, Sequence[str]]) -> None:
        """Fails unless exactly these series are held, and the role api answers exactly these rows of each."""
        ways = {series: asked(series) for series in await self.held()}
        held = {series: self.api.lines(path, **query) for series, (path, query) in ways.items()}
        compared(rows, held)
        assert list(held) == sorted(rows)
        for series, expected in rows.items():
            assert held[series] == expected, f"{series}\n{self.api.said()}"

    async def findings(self) -> list[Finding]:
        """All that the metadata keep."""
        meta = await open_meta(self.mysql_url, migrate=False)
        try:
            return (await meta.findings(limit=1_000))[0]
        finally:
            await meta.close()


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    """The cluster; its services are ended however the block ends."""
    try:
        yield cluster
    finally:
        cluster.close()


def of(folder: Path, nats_url: str, mongo: AnyServer, mysql: MySqlServer, **settings: object) -> Cluster:
    """A cluster on new databases of these servers. Call it outside of any event loop."""
    return Cluster(folder, nats_url, mongo.access(), asyncio.run(mysql.fresh()), **settings)


async def all_ready(services: Iterable[Service], within_s: float = 20.0) -> None:
    """Return when every one of them says so."""
    for one in services:
        await eventually(lambda one=one: is_ready(one), within_s=within_s, what=f"ready\n{one.said()}")


def is_ready(service: Service) -> bool:
    """Whether it says so."""
    return service.get("/health/readiness").status_code == 200
