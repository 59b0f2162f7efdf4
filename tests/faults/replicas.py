"""Several ingest replicas on one durable consumer, and what all of them together hold.

STORES says how a kind of store is shared: "embedded" has one writer, so each replica has a DATA_DIR of its own, and what
is held is the union of all.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.account import compared
from tests.servers import fresh
from tests.service import Service, asked

STORES = ("embedded",)


class Replicas:
    """So many services with the same stream, subject and consumer. Also a context that ends them all."""

    def __init__(self, folder: Path, url: str, count: int, store: str, **settings: Any) -> None:
        assert store in STORES, store
        self.store = store
        names = {"nats_stream": fresh("SHARED"), "nats_consumer_subject": fresh("shared.data")}
        self.all = [Service(folder / f"replica-{n}", nats_url=url, **names, **settings) for n in range(count)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Sequence[Service]]:
        """All started, one after the other."""
        async with AsyncExitStack() as stack:
            for service in self.all:
                stack.callback(service.close)
                await service.start()
            yield self.all

    async def held(self) -> list[dict[str, list[str]]]:
        """Of each place where rows are: by series id, its rows in key order."""
        return [await held_by(service) for service in self.all]

    async def require(self, rows: dict[str, list[str]]) -> int:
        """Fails unless every row is held by one of them at least, whoever holds it holds it like that, and nothing else
        is held. Returns how many rows are held more than once.

        Two different rows under one key would be one more than there ought to be.
        """
        places = await self.held()
        union: dict[str, set[str]] = {}
        for place in places:
            for series, lines in place.items():
                assert len(lines) == len(set(lines)), series
                union.setdefault(series, set()).update(lines)
        compared(rows, union)
        assert sorted(union) == sorted(rows)
        for series, expected in rows.items():
            missing, foreign = set(expected) - union[series], union[series] - set(expected)
            assert not missing, f"{series}: {len(missing)} rows are nowhere, such as {min(missing)}"
            assert not foreign, f"{series}: {len(foreign)} rows are held otherwise, such as {min(foreign)}"
        held = sum(len(lines) for place in places for lines in place.values())
        return held - sum(map(len, rows.values()))


async def held_by(service: Service) -> dict[str, list[str]]:
    """Everything a running service holds, as it answers."""
    rows = {}
    for series in await service.held():
        path, query = asked(series)
        rows[series] = service.lines(path, **query)
    return rows
