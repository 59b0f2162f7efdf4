"""Every spot book called by the first stream that was configured, as the publisher does it: the books of that symbol are
stored, all others are quarantined, counted, and one finding says so."""

import json
from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.aio.client import Client

from data_manager.adapters.meta.sql import open_meta
from data_manager.domain.finding import Finding, FindingKind
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.servers import own_server
from tests.service import Service, connected, drained, publish, running
from tests.truth import Line, iso, lines_of, path_of, rows_of

NAME = "2021-04-04_dot-btc-eth"
SNAPSHOTS = ("depth_DOTUSDT_1617566592106", "depth_BTCUSDT_1617566592339", "depth_ETHUSDT_1617566592620")
LINES = 4_716 if FULL else 1_500
LEVELS = 20


class Published(NamedTuple):
    """The recorded stream with the books that the venue would have sent beside it, all with one label."""

    payloads: list[bytes]
    lines: list[Line]
    books: dict[str, list[dict[str, Any]]]  # by true symbol, in order; each with the time it was sent


@pytest.fixture(scope="module", params=["btcusdt", "dotusdt"])
def published(request: pytest.FixtureRequest, recordings: Path) -> Published:
    """The label is the one parameter."""
    label: str = request.param
    lines = list(lines_of(path_of(recordings, "spot", NAME)))[:LINES]
    payloads: list[bytes] = []
    books: dict[str, list[dict[str, Any]]] = {}
    priced: set[str] = set()
    replica = Replica(recordings / "binance_spot" / "rest")
    for line in lines:
        payloads.append(line.enveloped)
        if line.data["e"] == "aggTrade":
            priced.add(line.data["s"])
        elif line.data["e"] == "depthUpdate" and label.upper() in priced:
            for book in replica.after(line.data):
                books.setdefault(line.data["s"], []).append({**book, "sent_ms": line.recv_ns // 1_000_000})
                payloads.append(_enveloped(line, book, label))
    assert all(books.values())
    assert len(books) == 3
    return Published(payloads, lines, books)


class Replica:
    """Books by snapshot and diffs, read with plain json; after each diff, the best levels as a partial book."""

    def __init__(self, folder: Path) -> None:
        self._sides: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self._last: dict[str, int] = {}
        for name in SNAPSHOTS:
            snapshot, symbol = json.loads((folder / f"{name}.json").read_text()), name.split("_")[1]
            self._sides[symbol] = (dict(snapshot["bids"]), dict(snapshot["asks"]))
            self._last[symbol] = snapshot["lastUpdateId"]

    def after(self, diff: Any) -> Iterator[dict[str, Any]]:
        """The book after this diff; none where the diff is older than the snapshot."""
        symbol = diff["s"]
        if diff["u"] <= self._last[symbol]:
            return
        for side, levels in zip(self._sides[symbol], (diff["b"], diff["a"]), strict=True):
            for price, quantity in levels:
                if float(quantity) == 0:
                    side.pop(price, None)
                else:
                    side[price] = quantity
        bids, asks = self._sides[symbol]
        yield {
            "lastUpdateId": diff["u"],
            "bids": [[price, bids[price]] for price in nlargest(LEVELS, bids, key=float)],
            "asks": [[price, asks[price]] for price in nsmallest(LEVELS, asks, key=float)],
        }


def _enveloped(line: Line, book: dict[str, Any], label: str) -> bytes:
    frame = {"stream": f"{label}@depth20@100ms", "data": book}
    whole = json.dumps(frame, separators=(",", ":")).encode()
    return Line(line.recv_ns, whole, {}).enveloped


def depth_rows(books: Sequence[dict[str, Any]]) -> list[str]:
    """What GET /data/depth has to answer, a line per book."""
    rows = [
        {
            "timestamp": iso(book["sent_ms"]), "update_id": book["lastUpdateId"],
            **{side: [{"price": p, "quantity": q} for p, q in book[side]] for side in ("bids", "asks")}, "clock": "publisher",
        }
        for book in books
    ]  # fmt: skip
    return [json.dumps(row, separators=(",", ":")) for row in rows]


async def test_books_with_the_label_of_another_are_quarantined(
    tmp_path: Path, published: Published, told: Told
) -> None:
    own = label_of(published).upper()
    others = sum(len(books) for symbol, books in published.books.items() if symbol != own)
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url, market="spot")
        async with running(service), connected(server.url) as client:
            await feed(client, service, published.payloads)
            expected = rows_of(published.lines, "spot")
            await service.require({**expected, f"spot.depth.{own}": depth_rows(published.books[own])})
            figures = service.figures()
            figures.require_law()
            assert figures.of("messages_failed_total", reason="mislabelled") == others
            assert figures.of("messages_failed_total") == others
            require_letters(service, {symbol: len(books) for symbol, books in published.books.items() if symbol != own})
            finding = await raised(service, f"spot.depth.{own}")
            assert finding.evidence["books"] == others
            told(times=others, books=sum(map(len, published.books.values())))
            await service.kill()
            await service.start()
            await feed(client, service, published.payloads)
            await service.require({**expected, f"spot.depth.{own}": depth_rows(published.books[own])})
            assert (await raised(service, f"spot.depth.{own}")).id == finding.id, "another run goes on with it"
            assert await service.stop() < 5.0


def label_of(published: Published) -> str:
    """The one label of the books."""
    [label] = {json.loads(one)["stream"].partition("@")[0] for one in published.payloads if b'"lastUpdateId"' in one}
    return str(label)


async def feed(client: Client, service: Service, payloads: Sequence[bytes]) -> None:
    await publish(client, service.subject, payloads)
    await drained(client, service)


def require_letters(service: Service, others: dict[str, int]) -> None:
    """A letter for each book that is not the label's, which names the symbol it is near to."""
    found: dict[str, int] = {}
    page: dict[str, Any] = {"pagination": {"has_more": True}}
    offset = 0
    while page["pagination"]["has_more"]:
        page = service.page("/dead-letters", limit=1_000, offset=offset, reason="mislabelled")
        offset += len(page["data"])
        for letter in page["data"]:
            assert (letter["field"], letter["whole"]) == ("stream", True)
            symbol = letter["message"].rpartition("near the price of ")[2]
            found[symbol] = found.get(symbol, 0) + letter["count"]
    assert found == others


async def raised(service: Service, series: str) -> Finding:
    """The one open finding of that series, as soon as it is in the metadata store."""
    found: list[Finding] = []

    async def there() -> bool:
        meta = await open_meta(f"sqlite:///{service.data_dir}/metadata.sqlite")
        try:
            found[:], _ = await meta.findings(limit=10, kind=FindingKind.MISLABELLED, series=series, open_only=True)
        finally:
            await meta.close()
        return bool(found)

    await eventually(there, what="the finding")
    [finding] = found
    return finding
