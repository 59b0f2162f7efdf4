"""A bus without memory loses what nobody takes in time, and the service says what: how many, of which series, when.

What can be known. Events that our own bound let go were read: their count and their span are exact. Events that the
server threw away, or that passed while nobody listened, nobody read: an absence has a span by our clock and no count,
and each series that is heard again has a span by its own clock, from its last row before to its first row after. Of
trades, aggregate trades, book changes and candles that is claimed only where ids, chain or grid show that something is
absent; of the others (best bid and ask, mark prices, books, tickers) nobody can know, and so it is always claimed.
"""

import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from nats.aio.client import Client

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.domain.finding import Finding
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.losses import absences, gaps, losses_of, missing, seen, time_ms, to_replay, uncovered
from tests.faults.replicas import held_by
from tests.faults.streams import candle, later, payloads, recorded, trade, without_candles
from tests.servers import freeze, own_server, thaw
from tests.service import Service, connected, data_manager, running
from tests.truth import Line, paths_of, rows_of

NAMES = ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1")
SLOW = [sys.executable, "-m", "tests.faults.slow_store", "0.05"]
HOURS = 3


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """44,830 messages of which each is one row; 14,855 when shortened."""
    return without_candles(recorded(*paths_of(recordings, "um", NAMES if FULL else NAMES[:2])))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Without JetStream."""
    async with own_server(tmp_path / "nats", jetstream=False) as one:
        yield one


@pytest.fixture
async def impatient_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Cuts off who leaves more than a megabyte unread."""
    async with own_server(tmp_path / "nats", jetstream=False, config="max_pending: 1MB") as one:
        yield one


async def test_overflow_drops_the_oldest_and_says_exactly_which(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """The store is slow and little may wait: what arrives meanwhile pushes the oldest out."""
    service = Service(tmp_path / "service", nats_url=server.url, program=SLOW, message_queue_size=500)
    expected = rows_of(lines)
    async with running(service), connected(server.url) as client:
        await send(client, service, lines)
        await eventually(lambda: accounted_for(service) == len(lines), within_s=60, what="every message")
        figures = service.figures()
        figures.require_law()
        dropped = figures.of("events_dropped_total")
        assert 0 < dropped < len(lines)
        assert figures.of("nats_reconnections_total") == 0
        assert service.page("/health/ingest")["dropped"] == dropped
        assert service.get("/health/readiness").status_code == 200
        lost = missing(expected, await held_by(service))
        findings = await last_words(service)
        assert findings == seen(findings)
        assert sum(map(len, lost.values())) == dropped
        counts = dict.fromkeys(lost, 0)
        for one in findings:
            counts[str(one.series)] += int(one.evidence["events"] or 0)
            times = {time_ms(row) for row in lost[str(one.series)]}
            assert one.end_ms is not None
            assert {one.start_ms, one.end_ms - 1} <= times, "a span begins and ends with an event that was let go"
        assert counts == {series: len(rows) for series, rows in lost.items()}
        assert uncovered(lost, findings) == []
        said = len(said_of_drops(service))
        assert 0 < said <= len(findings)
        await mend(service, client, lines, findings)
    told(times=1, published=len(lines), let_go=dropped, findings=len(findings), log_lines=said)


async def test_a_frozen_service_is_cut_off_and_says_what_it_may_have_missed(
    impatient_server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """SIGSTOP in a flood: the server gives up on us; some that it sent is read afterwards, the rest nobody ever saw."""
    server = impatient_server
    some = [*lines[:1_500], *lines[-1_000:]]
    before = [*some, *(trade(symbol, number) for symbol in ("QUIETUSDT", "GONEUSDT") for number in range(10))]
    before += [candle("QUIETUSDT", 0), candle("GONEUSDT", 0)]
    unseen = [line for hour in range(1, HOURS) for line in later(lines, hour)]
    unseen += [trade("GONEUSDT", number) for number in range(10, 20)] + [candle("GONEUSDT", 1)]
    after = [*later(some, HOURS), *(trade("QUIETUSDT", number) for number in range(10, 20))]
    after += [*(trade("GONEUSDT", number) for number in range(20, 30)), candle("QUIETUSDT", 1), candle("GONEUSDT", 2)]
    published = [*before, *unseen, *after]
    expected = rows_of(published)
    service = Service(tmp_path / "service", nats_url=server.url, message_queue_size=5_000)
    async with running(service), connected(server.url) as client:
        await send_gently(client, service, before)
        frozen_ms = now_ms()
        freeze(service.pid)
        await send(client, service, unseen)
        await eventually(lambda: "Slow Consumer" in server.log_file.read_text(), what="cut off")
        thawed_ms = now_ms()
        thaw(service.pid)
        await eventually(lambda: service.figures().of("nats_reconnections_total") == 1, what="connected again")
        await send_gently(client, service, after)
        await eventually(lambda: service.figures().of("events_in_flight") == 0, what="all stored")
        figures = service.figures()
        figures.require_law()
        lost = missing(expected, await held_by(service))
        findings = await last_words(service)
        [absence] = absences(findings)
        assert absence.start_ms <= frozen_ms, "what the server threw away, it was given since we stopped reading"
        assert absence.end_ms is not None
        assert thawed_ms <= absence.end_ms
        assert absence.evidence["events"] is None
        assert uncovered(lost, findings) == []
        assert sum(map(len, lost.values())) > figures.of("events_dropped_total"), "some were never seen"
        claimed = {one.series for one in findings}  # the recorded ones jump from hour to hour: QUIETUSDT runs on
        assert {"um.trade.GONEUSDT", "um.candle.GONEUSDT.1m"} <= claimed
        assert not {"um.trade.QUIETUSDT", "um.candle.QUIETUSDT.1m"} & claimed
        [gone] = [one for one in findings if one.series == "um.trade.GONEUSDT"]
        assert (gone.evidence["after_key"], gone.evidence["before_key"]) == (9, 20)
        assert gone.evidence["absent"] == 10
        assert 0 < len(said_of_drops(service)) <= len(findings)
        await mend(service, client, published, findings)
    unread = sum(map(len, lost.values())) - figures.of("events_dropped_total")
    told(
        times=1,
        published=len(published),
        let_go=figures.of("events_dropped_total"),
        unseen=unread,
        findings=len(findings),
    )


async def test_what_passes_between_two_runs_is_missed_by_the_next_one(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """kill -9, and some time until it runs again: the store remembers where every series ended."""
    third = len(lines) // 3
    service = Service(tmp_path / "service", nats_url=server.url)
    async with running(service), connected(server.url) as client:
        await send_gently(client, service, lines[:third])
        await service.kill()
        gone_ms = now_ms()
        await send(client, service, lines[third : 2 * third])
        await service.start()
        await send_gently(client, service, lines[2 * third :])
        service.figures().require_law()
        lost = missing(rows_of(lines), await held_by(service))
        findings = await last_words(service)
        assert sum(map(len, lost.values())) == third
        assert uncovered(lost, findings) == []
        require_no_false_claim(lost, [one.series for one in gaps(findings)])
        [absence] = absences(findings)
        assert absence.start_ms <= gone_ms < (absence.end_ms or 0)
        await mend(service, client, lines, findings)
    told(times=1, published=len(lines), unseen=third, findings=len(findings))


# ---- what each of them does ------------------------------------------------------------------------------------------


async def send(client: Client, service: Service, lines: Sequence[Line]) -> None:
    """All of them as fast as it goes; on return the server has read them."""
    for payload in payloads(lines):
        await client.publish(service.subject, payload)
    await client.flush(60)


async def send_gently(client: Client, service: Service, lines: Sequence[Line]) -> None:
    """All of them, no more at once than the service takes; on return it has stored them."""
    enough = accounted_for(service)
    for at in range(0, len(lines), 400):
        some = lines[at : at + 400]
        enough += len(some)
        await send(client, service, some)
        await eventually(lambda n=enough: accounted_for(service) >= n, what="stored")


def accounted_for(service: Service) -> int:
    """Messages that are stored or let go."""
    figures = service.figures()
    return figures.of("messages_received_total", event_type="raw") - figures.of("events_in_flight")


async def last_words(service: Service) -> list[Finding]:
    """Stop it; its findings, which are all kept by then."""
    assert await service.stop() < 5.0
    return await losses_of(service)


def said_of_drops(service: Service) -> list[str]:
    """Lines of its log about something dropped."""
    log = (service.folder / "service.log").read_text()
    return [line for line in log.splitlines() if '"dropped"' in line and "finding" in line]


def require_no_false_claim(lost: dict[str, list[str]], claimed: Sequence[str | None]) -> None:
    """Of what is numbered, chained or on a grid only series that really lost something are named."""
    knowable = ("trade", "agg_trade", "depth_update", "candle")
    assert [one for one in claimed if str(one).split(".")[1] in knowable and one not in lost] == []


async def mend(service: Service, client: Client, lines: Sequence[Line], findings: Sequence[Finding]) -> None:
    """Start it anew, well this time, and replay what the findings name: after that all of it is held."""
    service.program = data_manager()
    await service.start()
    await send_gently(client, service, to_replay(lines, findings))
    service.figures().require_law()
    await service.require(rows_of(lines))


def now_ms() -> int:
    """Our clock, which is the service's too."""
    return time.time_ns() // 1_000_000
