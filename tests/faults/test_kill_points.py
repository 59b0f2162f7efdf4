"""kill -9 of the service at chosen points, again and again on one data directory, while the publisher goes on."""

import asyncio
import random
import sqlite3
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from data_manager.ports import Receipt
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.crashing import APPEND_POINTS, POINTS
from tests.servers import own_server
from tests.service import Service, connected, drained, publish
from tests.truth import Line, lines_of, paths_of, rows_of

EACH = 4 if FULL else 1
OUTSIDE = 50 - 4 * len(POINTS) if FULL else 2  # kills at any moment, start-up included
RECORDINGS = ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1", "2024-08-08_ethusdt")
OFTEN: dict[str, Any] = {"nats_ack_wait_s": 1, "message_queue_size": 1_000, "max_batch_size": 100}
"""Small flushes, hence many moments to die in; what was in flight comes again after 1 s."""
AHEAD = 400  # messages the publisher keeps in front of the service, alive or dead
WINDOW = 200


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """44,893 messages of five symbols, and 74,654 of a sixth in the full run."""
    return list(lines_of(*paths_of(recordings, "um", RECORDINGS if FULL else RECORDINGS[:-1])))


async def test_killed_at_every_point_again_and_again(tmp_path: Path, lines: list[Line], told: Told) -> None:
    dice = random.Random(seed := 20_261_122)
    deaths = [(point, dice.randint(1, 12 if point in APPEND_POINTS else 3)) for point in POINTS * EACH]
    deaths += [("never", 0)] * OUTSIDE
    dice.shuffle(deaths)
    async with own_server(tmp_path / "nats") as server:
        mortal = Mortal(Service(tmp_path / "service", nats_url=server.url, **OFTEN), dice)
        with mortal.ended():
            async with connected(server.url) as client:
                steady = Steady(client, mortal.service, [line.message for line in lines])
                publishing = asyncio.create_task(steady.publish())
                for number, (point, nth) in enumerate(deaths):
                    await mortal.live(
                        point, nth, f"seed {seed}, life {number}: {point}, time {nth}; {steady.sent} sent"
                    )
                told(times=len(deaths), **mortal.figures())
                await mortal.live_on()
                await steady.finish(publishing)
                await drained(client, mortal.service)
                figures = mortal.service.figures()
                figures.require_law()
                duplicates = mortal.duplicates + figures.of("rows_duplicate_total")
                told(published=steady.sent, duplicates_of_all_lives=duplicates)
                await mortal.service.require(rows_of(lines[: steady.sent]))
                assert await mortal.service.stop() < 5.0
    assert mortal.deaths_at == Counter("from_outside" if point == "never" else point for point, _ in deaths)
    assert duplicates > 0  # something did come twice
    require_sound(mortal.service.data_dir)


class Mortal:
    """A service whose every life ends by SIGKILL, and what is known of its lives."""

    def __init__(self, service: Service, dice: random.Random) -> None:
        self.service = service
        self.duplicates = 0  # rows its appends were told they had
        self.recoveries: list[float] = []
        self._dice = dice
        self._story = service.folder / "story"
        self._outside = 0

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Whatever still lives at the end of the block is ended."""
        try:
            yield
        finally:
            self.service.close()

    @property
    def deaths_at(self) -> Counter[str]:
        """How often it died where, by its own words."""
        return Counter(line.split(",")[0] for line in self._lines()) + Counter(from_outside=self._outside)

    def figures(self) -> dict[str, object]:
        """For the table."""
        at = {point.replace(" ", "_"): count for point, count in sorted(self.deaths_at.items())}
        median, worst = statistics.median(self.recoveries), max(self.recoveries)
        return {**at, "seconds_to_recover": worst, "mostly": f"{median:.2f} s"}

    async def live(self, point: str, nth: int, what: str) -> None:
        """Start, and die at the nth arrival at the point; never: at any moment, by another's hand."""
        self._doom(point, nth)
        before = len(self._lines())
        rising = asyncio.create_task(self._rise())
        await asyncio.sleep(self._dice.random() * 2.0 if point == "never" else 0.0)  # the moment, not a wait
        if point == "never":
            await self.service.kill()
            self._outside += 1
        await eventually(lambda: not self.service.running, within_s=30.0, what=what)
        await asyncio.wait({rising})
        if rising.exception() is None:
            self.recoveries.append(rising.result())
        if point != "never":
            [last] = self._lines()[before:]
            self.duplicates += Receipt(*map(int, last.split(",")[1:])).duplicate

    async def live_on(self) -> None:
        """Start, for good."""
        self._doom("never", 0)
        self.recoveries.append(await self._rise())

    def _doom(self, point: str, nth: int) -> None:
        self.service.program = [sys.executable, "-m", "tests.faults.crashing", point, str(nth), str(self._story)]

    async def _rise(self) -> float:
        """Start; the seconds until it is ready. Raises when it dies before."""
        started = time.monotonic()
        await self.service.start()
        seconds = time.monotonic() - started
        with suppress(httpx2.TransportError):  # it died meanwhile
            self.service.figures().require_law()
        return seconds

    def _lines(self) -> list[str]:
        return self._story.read_text(encoding="ascii").splitlines() if self._story.exists() else []


class Steady:
    """A publisher that stays a little ahead of what is delivered, whether anybody lives to take it or not."""

    def __init__(self, client: Client, service: Service, payloads: Sequence[bytes]) -> None:
        self.sent = 0
        self._client = client
        self._service = service
        self._payloads = payloads
        self._enough = False

    async def publish(self) -> None:
        """Until finish() is called. Fails when there is nothing left to publish."""
        while not self._enough:
            await eventually(self._caught_up, within_s=60.0, what="the service takes what is published")
            window = self._payloads[self.sent : self.sent + WINDOW]
            assert window, f"all {self.sent} messages are published, and it has not died often enough"
            await publish(self._client, self._service.subject, window)
            self.sent += len(window)

    async def finish(self, publishing: asyncio.Task[None]) -> None:
        """One more window, and no more."""
        self._enough = True
        await publishing

    async def _caught_up(self) -> bool:
        js = self._client.jetstream(timeout=5)
        try:
            info = await js.consumer_info(self._service.environ["NATS_STREAM"], "petrosa-data-manager")
        except NatsError:
            return False  # not created yet
        return (info.num_pending or 0) < AHEAD


def require_sound(data_dir: Path) -> None:
    """SQLite finds nothing wrong with the file, and no chunk of a series begins before the one before it ends."""
    with sqlite3.connect(data_dir / "series.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        chunks = connection.execute("SELECT sid, first_key, last_key FROM chunk ORDER BY sid, first_key").fetchall()
    connection.close()
    assert chunks
    for (sid, _, last_key), (next_sid, first_key, _) in pairwise(chunks):
        assert sid != next_sid or last_key < first_key
