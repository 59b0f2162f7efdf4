"""Dead letters after the fact: told in the log, shown, replayed after a fix, dropped; by the real process and its commands."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain.errors import Unavailable
from data_manager.ports import DeadLetter
from data_manager.services.dead_letters.log import DeadLetterLog
from data_manager.services.dead_letters.replay import Reader, covers, replay, select, tried
from tests.conftest import eventually
from tests.servers import SteppingClock, own_server, running_server
from tests.service import Service, dead_letters, feed, running
from tests.warm import run

NOW_MS = 1_700_000_000_000
TRADE = b'{"e":"trade","E":1680652700455,"T":1680652700452,"s":"%s","t":%d,"p":"%s","q":"0.002","X":"MARKET","m":true}'
GARBAGE = b"\xff\x00 not json\n"
LONG = b"x" * 70_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


def said(service: Service, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """What `data-manager dead-letters …` says."""
    done = run(("dead-letters", *arguments), service.environ)
    assert done.returncode == code, (arguments, done.stdout[-500:], done.stderr[-2_000:])
    return done


def json_of(service: Service, *arguments: str) -> Any:
    return json.loads(said(service, *arguments, "--json").stdout)


def held(service: Service) -> list[dict[str, Any]]:
    """All dead letters, by HTTP of a running service."""
    letters: list[dict[str, Any]] = service.page("/dead-letters", limit=1_000)["data"]
    return letters


# ---- replayed after a fix ----------------------------------------------------------------------------------------------


async def test_after_the_fix_they_are_rows_and_what_fails_again_is_a_letter_again(
    server: NatsServer, tmp_path: Path
) -> None:
    """MARKET was wrong: COIN-M trades came to a service of USDⓈ-M, among garbage and one message too long to keep."""
    service = Service(tmp_path, nats_url=server.url)
    trades = [TRADE % (b"BTCUSD_PERP", number, b"28145.1") for number in range(50)]
    array = b"[" + TRADE % (b"ETHUSD_PERP", 1, b"1800.5") + b"," + TRADE % (b"ETHUSD_PERP", 2, b"1800.6") + b"]"
    async with running(service):
        await feed(server.url, service, [*trades, array, GARBAGE, GARBAGE, LONG])
        assert len(held(service)) == 53
        before = json_of(service, "replay", "--dry-run")
        assert (before["letters"], before["would_parse"]) == (53, 0)
        await service.stop()
        service.environ["MARKET"] = "cm"
        await service.start()
        would = json_of(service, "replay", "--dry-run")
        assert would["would_parse"] == 51
        assert len(held(service)) == 53, "a dry run changes nothing"
        by_reason = {one["reason"]: one for one in would["data"] if one["replayable"]}
        assert by_reason["undecodable"]["now"]["refused"]
        report = json_of(service, "replay")
        assert (report["letters"], report["published"], report["partial"]) == (53, 52, 1)
        assert report["removed"] + report["came_again"] == 52
        await eventually(lambda: service.figures().of("rows_new_total") == 52, what=service.said())
        await eventually(lambda: service.figures().of("messages_failed_total") == 1, what="the garbage again")
        await eventually(lambda: len(held(service)) == 2, what="the letter of the garbage")
        left = {letter["sample"][:3]: letter for letter in held(service)}
        assert left["xxx"]["whole"] is False
        assert left["\\xf"]["reason"] == "undecodable"
        assert left["\\xf"]["count"] in (1, 3)  # forgotten before it failed again, or counted on
        assert await service.held() == ["cm.trade.BTCUSD_PERP", "cm.trade.ETHUSD_PERP"]
        service.figures().require_law()


async def test_only_those_that_were_asked_for(server: NatsServer, tmp_path: Path) -> None:
    service = Service(tmp_path, nats_url=server.url)
    broken = [TRADE % (b"BTCUSDT", number, b"x") for number in range(3)]
    async with running(service):
        await feed(server.url, service, [*broken, GARBAGE])
        first, second, _ = (letter["id"] for letter in json_of(service, "--reason", "invalid")["data"])
        report = json_of(service, "replay", "--id", first[:10], "--id", second)
        assert (report["letters"], report["published"]) == (2, 2)
        assert json_of(service, "replay", "--dry-run", "--reason", "undecodable")["letters"] == 1
        assert b"at least" in said(service, "replay", "--id", first[:3], code=2).stderr
        assert b"no dead letter" in said(service, "replay", "--id", "0" * 32, code=1).stderr


async def test_without_a_stream_nothing_is_removed(tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats", jetstream=False) as core:
        service = Service(tmp_path / "service", nats_url=core.url, nats_mode="core")
        async with running(service):
            meta = await open_meta(f"sqlite:///{service.data_dir}/metadata.sqlite")
            await meta.keep_dead([letter(TRADE % (b"BTCUSDT", 1, b"1"), subject=service.subject)])
            await meta.close()
            report = json_of(service, "replay")
            assert (report["published"], report["unacknowledged"], report["removed"]) == (1, 1, 0)
            await eventually(
                lambda: service.figures().of("rows_new_total") == 1, what="it went over the bus all the same"
            )
            assert len(held(service)) == 1


async def test_without_a_bus_nothing_happens_and_the_command_says_so(tmp_path: Path) -> None:
    service = Service(tmp_path, nats_url="nats://127.0.0.1:1", nats_connect_timeout=0.5)
    service.data_dir.mkdir()
    meta = await open_meta(f"sqlite:///{service.data_dir}/metadata.sqlite")
    await meta.keep_dead([letter(GARBAGE)])
    await meta.close()
    assert b"stays here" in said(service, "replay", code=1).stderr
    assert json_of(service, "replay", "--dry-run")["would_parse"] == 0
    assert len(dead_letters(service)) == 1


# ---- the steps of it ---------------------------------------------------------------------------------------------------


def letter(payload: bytes, at: int = 0, **other: Any) -> DeadLetter:
    given = {"subject": "market", "reason": "invalid", "field": "data.p", "message": "data.p 'x': must be a number"}
    return DeadLetter(received_ms=NOW_MS + at, payload=payload, **{**given, **other})


class Gate:
    """A stream that acknowledges what it gets, until it fails; what happens meanwhile is up to the test."""

    def __init__(self, fails_after: int = 1_000_000) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.fails_after = fails_after
        self.meanwhile: list[DeadLetter] = []

    async def publish(self, subject: str, payloads: Sequence[bytes]) -> bool:
        if len(self.got) >= self.fails_after:
            raise Unavailable("the stream is gone")
        self.got += [(subject, payload) for payload in payloads]
        return True


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    """One that keeps payloads of up to 1,000 bytes."""
    store = await open_meta(f"sqlite:///{tmp_path}/meta.db", payload_bytes_max=1_000)
    yield store
    await store.close()


def silent(*_: object) -> None:
    """Nobody looks at the progress."""


@pytest.mark.parametrize("apart", [1, 250])  # beside each other, and too far apart to be in hand at the same time
async def test_letters_of_one_message_are_published_once(meta: SqlMetaStore, apart: int) -> None:
    gate = Gate()
    others = [letter(b"%d" % number, at=number) for number in range(apart)]
    await meta.keep_dead([letter(b"one", at=-1), *others, letter(b"one", at=apart, field="data.q")])
    report = await replay(meta, await select(meta), gate, "market", silent)
    assert sorted(payload for _, payload in gate.got) == sorted([b"one", *(other.payload for other in others)])
    assert (report.published, report.removed, await select(meta)) == (apart + 1, apart + 2, [])


async def test_a_letter_that_failed_again_before_it_could_be_removed_stays(meta: SqlMetaStore) -> None:
    class Quick(Gate):
        async def publish(self, subject: str, payloads: Sequence[bytes]) -> bool:
            await meta.keep_dead([letter(b"bad", at=5)])
            return await super().publish(subject, payloads)

    await meta.keep_dead([letter(b"bad"), letter(b"good")])
    report = await replay(meta, await select(meta), Quick(), "market", silent)
    assert (report.removed, report.came_again) == (1, 1)
    [left] = await select(meta)
    assert (left.sample, left.count) == ("bad", 2)


async def test_what_the_stream_did_not_acknowledge_is_not_removed(meta: SqlMetaStore) -> None:
    gate = Gate(fails_after=300)
    await meta.keep_dead([letter(b"%d" % number, at=number) for number in range(1_000)])
    with pytest.raises(Unavailable):
        await replay(meta, await select(meta), gate, "market", silent)
    published = {payload.decode() for _, payload in gate.got}
    left = {one.sample for one in await select(meta)}
    assert left | published == {str(number) for number in range(1_000)}
    assert not left & published
    assert len(left) == 600


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.b", "a.b", True), ("a.b", "a.c", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.*", "a", False),
        ("a.>", "a.b.c", True), ("a.>", "a", False), ("a.>", "ab.c", False), ("a", "a", True),
    ],
)  # fmt: skip
def test_subjects_that_are_listened_to(pattern: str, subject: str, covered: bool) -> None:
    assert covers(pattern, subject) is covered


@pytest.mark.parametrize(
    ("listened", "sent_to"), [("market", "market"), ("other", "other"), ("m.*", None), ("market.>", None)]
)
async def test_letters_go_where_the_service_listens(meta: SqlMetaStore, listened: str, sent_to: str | None) -> None:
    gate = Gate()
    await meta.keep_dead([letter(b"1"), letter(b"2", subject="m.eth")])
    report = await replay(meta, await select(meta), gate, listened, silent)
    own = [("m.eth", b"2")] if listened == "m.*" else []
    assert sorted(gate.got) == ([(sent_to, b"1"), (sent_to, b"2")] if sent_to else own)
    assert report.elsewhere == 2 - len(gate.got)


async def test_a_trial_reads_as_ingest_does(meta: SqlMetaStore) -> None:
    good, rule, broken = (TRADE % (b"BTCUSDT", 1, price) for price in (b"1", b"-1", b"x"))
    await meta.keep_dead(
        [letter(one, at=-at) for at, one in enumerate([good, rule, broken, b'{"id":1,"result":null}', LONG])]
    )
    reader = Reader(Decoder(), DATASET_OF, "um", SteppingClock())
    trials = [one.now for one in await tried(meta, await select(meta), reader)]
    assert [trial and (trial.stored, len(trial.refused), trial.ignored) for trial in trials] == [
        ({"trade": 1}, 0, []), ({}, 1, []), ({}, 1, []), ({}, 0, ["subscribe_ack"]), None,
    ]  # fmt: skip


# ---- looked at and dropped ---------------------------------------------------------------------------------------------


async def test_payloads_are_shown_byte_for_byte_and_letters_dropped_when_it_is_meant(
    server: NatsServer, tmp_path: Path
) -> None:
    service = Service(tmp_path, nats_url=server.url)
    async with running(service):
        await feed(server.url, service, [GARBAGE, LONG, TRADE % (b"BTCUSDT", 1, b"x")])
        by_size = {one["payload_bytes"]: one["id"] for one in held(service)}
        garbage, long = by_size[len(GARBAGE)], by_size[len(LONG)]
        assert said(service, "show", garbage[:12]).stdout == GARBAGE
        answer = service.get(f"/dead-letters/{garbage}/payload")
        assert (answer.status_code, answer.content) == (200, GARBAGE)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert b"70,000" in said(service, "show", long, code=1).stderr
        for unknown in (long, "0" * 32, "x"):
            assert service.get(f"/dead-letters/{unknown}/payload").status_code == 404
        assert json_of(service, "show", long)["whole"] is False
        assert b"--all" in said(service, "drop", code=2).stderr
        assert b"2 dead letters" in said(service, "drop", "--reason", "undecodable", code=2).stderr
        assert len(held(service)) == 3
        assert json_of(service, "drop", "--reason", "undecodable", "--yes") == {"letters": 2, "removed": 2}
        assert [one["reason"] for one in held(service)] == ["invalid"]
        assert json_of(service, "drop", "--all", "--yes")["removed"] == 1


# ---- told in the log ---------------------------------------------------------------------------------------------------


class Bench:
    """A log of dead letters and the lines it writes."""

    def __init__(self) -> None:
        self.clock = SteppingClock()
        self.evicted = 0
        self.log = DeadLetterLog(lambda: self.evicted, self.clock, interval_s=60)

    def lines(self, seconds: int = 1, *, everything: bool = False) -> list[Any]:
        with capture_logs() as lines:
            for _ in range(seconds):
                self.clock.slept_s += 1
                self.log.tell(everything=everything)
        return lines


def test_one_line_per_reason_and_interval_with_count_and_sample() -> None:
    bench = Bench()
    assert bench.lines(5) == []
    bench.log.kept([letter(b"%d" % number) for number in range(1_000)])
    bench.log.kept([letter(b"\xff" + LONG, reason="undecodable", field=None)])
    first = {line["reason"]: line for line in bench.lines()}
    assert (first["invalid"]["count"], first["invalid"]["field"], first["invalid"]["begins"]) == (
        1_000,
        "data.p",
        "999",
    )
    assert (first["undecodable"]["count"], first["undecodable"]["payload_bytes"]) == (1, 70_001)
    assert len(str(first["undecodable"])) < 1_000
    for _ in range(59):
        bench.log.kept([letter(b"%d" % number) for number in range(10)])
        assert bench.lines() == []
    [again] = bench.lines()
    assert again["count"] == 590
    assert bench.lines(200) == []


def test_the_last_words_are_not_lost() -> None:
    bench = Bench()
    bench.log.kept([letter(b"1")])
    bench.lines()
    bench.log.kept([letter(b"2")])
    assert bench.lines() == []
    [last] = bench.lines(everything=True)
    assert (last["count"], last["begins"]) == (1, "2")


def test_letters_that_made_room_are_told_and_counted() -> None:
    bench = Bench()
    bench.evicted = 7
    [line] = bench.lines()
    assert (line["count"], line["log_level"]) == (7, "error")
    bench.evicted = 10
    assert [line["count"] for line in bench.lines(120)] == [3]
