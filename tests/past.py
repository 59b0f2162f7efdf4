"""The sources of the past, opened on a simulated exchange, and what every answer of theirs has to keep."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data_manager.adapters.binance.archive import ArchiveSource
from data_manager.adapters.binance.rest import RestSource
from data_manager.adapters.binance.sources import Access, open_archive, open_rest
from data_manager.domain.batch import Batch, joined, settle
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.ports.source import Fetched, Offer, Source, Wanted
from tests.simulator.exchange import Running, running


class MemoryDigests:
    """Digests that are forgotten with the test."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    async def digest_of(self, path: str) -> str | None:
        return self.held.get(path)

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        self.held[path] = sha256


class Past(NamedTuple):
    """An exchange, and both sources that ask it."""

    exchange: Running
    rest: RestSource
    archive: ArchiveSource
    digests: MemoryDigests
    downloads: Path

    def source(self, name: str) -> Source:
        return self.rest if name == "rest" else self.archive

    @property
    def now_ms(self) -> int:
        return self.exchange.exchange.clock.now_ms()

    def offers(self, source: Source, series: Series, start_ms: int, end_ms: int, **keys: Any) -> list[Offer]:
        return list(source.offers(Wanted(series=series, span=Span(start_ms, end_ms), **keys), self.now_ms))


@asynccontextmanager
async def past(folder: Path, *symbols: str, api_key: str | None = "key", **plan: Any) -> AsyncIterator[Past]:
    """An exchange with these symbols and little trade, and its past."""
    plan.setdefault("activity", 0.2)
    access_of = plan.pop("access", {})
    async with asyncio.timeout(60), running(*symbols, **plan) as exchange:
        access = Access(um=exchange.address, archive=exchange.address, api_key=api_key, timeout_s=10, **access_of)
        digests = MemoryDigests()
        clock = exchange.exchange.clock
        rest, archive = open_rest(access, clock), open_archive(access, clock, digests, folder / "downloads")
        try:
            yield Past(exchange, rest, archive, digests, folder / "downloads")
        finally:
            await rest.close()
            await archive.close()


async def pieces(source: Source, wanted: Wanted, offer: Offer, origin: str = "job:1") -> list[Fetched]:
    """All pieces of an answer, which keep the port's promise: spans that partition the offer, rows settled in them."""
    found: list[Fetched] = []
    at_ms = offer.span.start_ms
    async for one in source.fetch(wanted, offer, origin):
        assert one.span.start_ms == at_ms, "pieces follow one another"
        at_ms = one.span.end_ms
        rows = one.rows
        assert rows.dataset is DATASETS[wanted.series.dataset]
        assert list(rows.columns) == [field.name for field in rows.dataset.fields]
        assert settle(rows) is rows, "rows are settled"
        assert ((rows.time_ms >= one.span.start_ms) & (rows.time_ms < one.span.end_ms)).all()
        assert set(rows.series) <= {wanted.series}
        assert all(str(word).startswith(f"{origin} {offer.call}") for word in rows.columns["origin"].values_list())
        assert one.evidence["rows"] == len(rows)
        assert {"request", "status", "sha256", "answered_ms", "refused"} <= one.evidence.keys()
        found.append(one)
    assert at_ms == offer.span.end_ms, "and reach its end"
    return found


async def fetched(
    source: Source, series: Series, start_ms: int, end_ms: int, now_ms: int, **keys: Any
) -> list[Fetched]:
    """The pieces of all that a source offers of the span."""
    wanted = Wanted(series=series, span=Span(start_ms, end_ms), **keys)
    return [one for offer in source.offers(wanted, now_ms) for one in await pieces(source, wanted, offer)]


def rows_of(answer: list[Fetched]) -> Batch:
    """All rows of an answer."""
    return settle(joined([one.rows for one in answer]))


def facts(batch: Batch) -> list[dict[str, Any]]:
    """Its rows without who brought them and when, and when the venue said so."""
    ours = {"received_ms", "origin", "event_ms"} - {*batch.dataset.key}
    return [{name: value for name, value in row.items() if name not in ours} for row in batch.rows()]
