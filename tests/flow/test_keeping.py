"""Certificates and retention of a whole service: recordings stay where they were replayed, and any other row is named."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
import pytest
import typer
from msgspec.structs import replace

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.api.app import Components, Readiness, Retention, create_app
from data_manager.cli import run
from data_manager.cli.certify import _share
from data_manager.domain.events import Number
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS
from data_manager.services.audit import Auditor
from data_manager.services.auditing.desk import Desk
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.days import MENDED_MS, SETTLED_MS, Certified, CertifyDays
from data_manager.services.runs import Runs
from tests.contract.rows import BASE_MS, batch_of, liquidation
from tests.flow.test_api import listening, no_facts
from tests.flow.test_retention import DAY0, HOURS, TRADES, House, day, hour, hours, trades
from tests.memory import MemoryStore
from tests.servers import running_server
from tests.service import Service, asked, feed, running_for_many
from tests.truth import lines_of, path_of, rows_of

RECORDED = "um.agg_trade.SUSHIUSDT"


# ── Days that are over ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    yield one
    await one.close()


class Days(NamedTuple):
    """A house of ten days, and who certifies its days."""

    house: House
    days: CertifyDays

    async def certified(self) -> list[tuple[str, float]]:
        """What is certified by now: series, and day."""
        refs = await self.house.meta.certificate_refs()
        assert all(one.end_ms - one.start_ms == DAY_MS for one in refs)
        return [(one.series, (one.start_ms - DAY0) / DAY_MS) for one in refs]


@pytest.fixture
def days(meta: SqlMetaStore) -> Days:
    house = House(MemoryStore(), meta)
    certifier = Certifier(house.store, meta, house.conditions, house.clock)
    return Days(house, CertifyDays(house.store, meta, certifier, house.conditions, house.clock))


async def test_every_day_that_is_over_and_audited_is_certified_once(days: Days) -> None:
    house = days.house
    await house.hold(hours(8, 9))
    await house.hold(trades(8, 9))
    await house.hold([liquidation((day(8.5) - BASE_MS) // 1_000)])
    assert (await days.days.run()).issued == 0, "nobody looked at it yet"
    await house.auditor.run()
    await house.conditions.refresh(at_once=True)
    done = await days.days.run()
    assert sorted(await days.certified()) == [(HOURS.id, 8), ("um.liquidation.BTCUSDT", 8), (TRADES.id, 8)]
    assert (done.issued, done.waiting) == (3, 0)
    house.clock.now = day(10) + SETTLED_MS
    await house.auditor.run()
    await house.conditions.refresh(at_once=True)
    assert (await days.days.run()).issued == 2
    assert sorted(await days.certified())[-2:] == [(TRADES.id, 8), (TRADES.id, 9)]
    certifier = Certifier(house.store, house.meta, house.conditions, house.clock)
    again = CertifyDays(house.store, house.meta, certifier, house.conditions, house.clock)
    assert (await again.run()).issued == 0, "another leader knows what was certified"


async def test_a_day_waits_for_rows_that_come_in_and_for_holes_that_may_be_mended(days: Days) -> None:
    house = days.house
    await house.hold([one for one in hours(2) if one.open_ms != day(2.5)])  # type: ignore[attr-defined]
    await house.hold(trades(2), received_ms=house.clock.now - 1_000)
    await house.auditor.run()
    await house.conditions.refresh(at_once=True)
    assert await days.days.run() == Certified(0, 2, False)
    house.clock.now += SETTLED_MS
    await days.days.run()
    assert await days.certified() == [(TRADES.id, 2)]
    house.clock.now += MENDED_MS
    await days.days.run()
    assert await days.certified() == [(TRADES.id, 2), (HOURS.id, 2)]
    [newest], _ = await house.meta.certificates(limit=1)
    assert newest.condition == {"good": 23 * HOUR_MS, "known_hole": HOUR_MS}


async def test_after_a_heal_what_it_touched_is_certified_again(days: Days) -> None:
    house = days.house
    await house.hold([one for one in hours(2) if one.open_ms != day(2.5)])  # type: ignore[attr-defined]
    certifier = Certifier(house.store, house.meta, house.conditions, house.clock)
    before = await certifier.certify(HOURS, Span(day(2), day(3)))
    await house.hold([hour(day(2.5))])
    healed = await certifier.healed(HOURS, Span(day(2.5), day(2.5) + HOUR_MS))
    assert [(one.start_ms, one.end_ms, one.contents.rows) for one in healed] == [
        (day(2), day(3), 24), (day(2.5), day(2.5) + HOUR_MS, 1),
    ]  # fmt: skip
    assert [one.previous for one in healed] == [before.id, healed[0].id]


# ── Over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Keeper:
    """Retention in this process, as a leader does it."""

    def __init__(self, house: House) -> None:
        self.retention = house.retention

    def last_run(self) -> Any:
        return self.retention.last

    async def retain_now(self, series: Any, *, dry_run: bool, force: bool, tell: Any) -> Any:
        return await self.retention.run(series, dry_run=dry_run, force=force, progress=tell)


@pytest.fixture
async def house(meta: SqlMetaStore) -> House:
    made = House(MemoryStore(), meta)
    await made.hold(hours(*range(10)))
    return made


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx2.AsyncClient]:
    async def readiness() -> Readiness:
        return Readiness(ready=True, status="healthy", components={}, reasons=[])

    from prometheus_client import CollectorRegistry

    auditor = Auditor(house.store, house.meta, house.meta, house.clock, house.told.extend)
    app = create_app(
        Components(
            store=house.store, meta=house.meta, clock=house.clock, market="um", version="9", readiness=readiness,
            registry=CollectorRegistry(), conditions=house.conditions, desk=Desk(auditor), ingest=no_facts, databases=no_facts,
            connections=no_facts, retention=Retention(retains=Keeper(house), days={"candle": 7}), runs=Runs("run", patience_s=5),
        )
    )  # fmt: skip
    async with listening(app) as one:
        yield one


async def test_certificates_are_issued_listed_read_and_verified(client: httpx2.AsyncClient, house: House) -> None:
    issued = await client.post("/certificates", json={"series": "candles_BTCUSDT_1h", "start": day(0), "end": day(1)})
    assert issued.status_code == 201, issued.text
    certificate = issued.json()
    assert (certificate["contents"]["rows"], certificate["series"]) == (24, HOURS.id)
    assert certificate["condition"] == {"unverified": DAY_MS}
    page = (await client.get("/certificates", params={"series": HOURS.id, "start": day(0)})).json()
    assert page["data"] == [certificate]
    assert page["pagination"] == {"limit": 100, "offset": 0, "total": 1, "has_more": False}
    whole = (await client.get(f"/certificates/{certificate['id'][:10]}")).json()
    assert whole["id"] == certificate["id"]
    assert sum(block[1] for block in whole["contents"]["blocks"]) == 24
    proof = (await client.post(f"/certificates/{certificate['id']}/verify")).json()
    assert (proof["holds"], proof["status"], proof["chain"]) == (True, "agrees", {"links": 0, "broken": None})
    await house.store.append(batch_of([replace(hour(day(0.5)), close=Number("2.5"))], "rest:klines"))
    proof = (await client.post(f"/certificates/{certificate['id']}/verify")).json()
    assert (proof["holds"], proof["status"], proof["columns"]) == (False, "differs", ["close"])
    assert proof["mismatches"] == [{"kind": "changed", "first_key": day(0.5), "last_key": day(0.5), "rows": 1}]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/certificates", {}, 422, "series"),
        ("POST", "/certificates", {"series": "um.trade"}, 422, "series"),
        ("POST", "/certificates", {"series": TRADES.id}, 404, None),
        ("POST", "/certificates", {"series": HOURS.id, "start": day(2), "end": day(1)}, 422, "start"),
        ("POST", "/certificates", {"series": HOURS.id, "end": day(11)}, 422, "end"),
        ("POST", "/certificates", {"series": HOURS.id, "start": "soon"}, 422, "start"),
        ("POST", "/certificates", {"series": HOURS.id, "to": 1}, 422, "to"),
        ("GET", "/certificates?limit=0", None, 422, "limit"),
        ("GET", "/certificates/zzz", None, 422, "certificate"),
        ("GET", "/certificates/0123456789", None, 404, None),
        ("POST", "/certificates/0123456789/verify", None, 404, None),
        ("GET", "/certificates/runs/7", None, 404, None),
        ("GET", "/certificates/runs/x", None, 422, "run"),
        ("POST", "/retention/run", {"dry_run": "yes"}, 422, "dry_run"),
        ("POST", "/retention/run", {"series": [1]}, 422, "series"),
        ("POST", "/retention/run", {"series": TRADES.id}, 404, None),
        ("POST", "/retention/run", {"dry": True}, 422, "dry"),
        ("GET", "/retention/records?series=x", None, 422, "series"),
        ("GET", "/retention?x=1", None, 422, "x"),
    ],
)
async def test_what_cannot_be_asked_is_named(
    client: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, field: str | None
) -> None:
    answer = await client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text


async def test_retention_is_told_tried_and_done(client: httpx2.AsyncClient, house: House) -> None:
    policy = (await client.get("/retention")).json()
    assert (policy["days"]["candle.1h"], policy["days"]["trade"], policy["days"]["funding_rate"]) == (7, 7, None)
    assert policy["last"] is None
    tried = (await client.post("/retention/run", json={"dry_run": True})).json()
    assert [(one["rows"], one["dropped"]) for one in tried["pieces"]] == [(24, None)] * 3
    done = (await client.post("/retention/run", json={})).json()
    assert (done["dropped"], done["failed"], done["waiting"]) == (72, {}, 0)
    records = (await client.get("/retention/records", params={"series": HOURS.id})).json()
    assert [(one["start_ms"], one["rows"], one["dropped"], one["done"]) for one in records["data"]] == [
        (day(number), 24, 24, True) for number in (2, 1, 0)
    ]
    assert (await client.get("/retention")).json()["last"]["dropped"] == 72
    proof = (await client.post(f"/certificates/{records['data'][0]['certificate']}/verify")).json()
    assert (proof["holds"], proof["status"]) == (False, "let_go")
    condition = (await client.get("/condition", params={"series": HOURS.id, "start": day(0), "end": day(3)})).json()
    assert [one["reason"] for one in condition["ranges"]] == ["let go by retention"]
    assert condition["completeness"] == 0


# ── The whole service, and the command line ──────────────────────────────────────────────────────────────────────────


class Fed(NamedTuple):
    """A service that a recording of 2021 was replayed to."""

    service: Service
    rows: dict[str, list[str]]
    url: str
    payloads: list[bytes]


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


class Shell:
    """Commands in the environment of a service, without the seconds that a process takes to start."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        for name, text in service.environ.items():
            monkeypatch.setenv(name, text)

    def use(self, folder: Path) -> None:
        """This DATA_DIR from now on."""
        self._monkeypatch.setenv("DATA_DIR", str(folder))

    def run(self, *arguments: str) -> Said:
        try:
            code = run(arguments)
        except typer.Exit as error:
            code = error.exit_code
        return Said(code, *self._capsys.readouterr())

    def told(self, *arguments: str) -> Any:
        said = self.run(*arguments, "--json")
        assert said.code == 0, said.err
        return json.loads(said.out)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fed: Fed) -> Shell:
    return Shell(capsys, monkeypatch, fed.service)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(scope="module")
def fed(recordings: Path, server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    """Retention looks every second, by the days of the table: a day for books, a week for trades."""
    service = Service(
        tmp_path_factory.mktemp("fed"),
        nats_url=server.url,
        retention_interval=1,
        audit_interval=1,
        leader_election_timeout=2,
        leader_election_heartbeat_interval=1,
    )
    lines = list(lines_of(path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")))
    payloads = [one.enveloped for one in lines]
    with running_for_many(service):
        asyncio.run(feed(server.url, service, payloads))
        yield Fed(service, rows_of(lines), server.url, payloads)


def test_a_recording_of_long_ago_stays_where_it_was_replayed(fed: Fed, shell: Shell) -> None:
    for _ in range(3):
        done = shell.told("retain")
        assert (done["pieces"], done["failed"], done["doubled"]) == ([], {}, 0)
        assert done["waiting"] == len(fed.rows), "every series is old, and came lately"
    for series, rows in fed.rows.items():
        path, query = asked(series)
        assert len(fed.service.rows(path, **query)) == len(rows)
    assert shell.told("retain", "--dry-run")["pieces"] == []
    assert fed.service.page("/retention")["last"]["waiting"] == len(fed.rows)
    assert fed.service.page("/retention/records")["data"] == []


def test_what_was_replayed_is_certified_and_verified_while_the_service_runs(
    fed: Fed, shell: Shell, tmp_path: Path
) -> None:
    assert [_share(part, 10**6) for part in (10**6, 999_999, 333_333, 1, 0)] == [
        "100.00%",
        "99.99%",
        "33.33%",
        "<0.01%",
        "0.00%",
    ]
    certificate = shell.told("certify", RECORDED)
    assert certificate["contents"]["rows"] == len(fed.rows[RECORDED])
    assert certificate["contents"]["sources"] == {"stream": len(fed.rows[RECORDED])}
    code, out, err = shell.run("verify", certificate["id"][:12])
    assert (code, out.count("agrees"), "rows/s" in err) == (0, 1, True)
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(certificate))
    assert shell.told("verify", str(file))["verified"] == 1
    file.write_text(json.dumps({**certificate, "checks": [*certificate["checks"], "everything"]}))
    code, _, err = shell.run("verify", str(file))
    assert (code, "was altered" in err) == (1, True)
    assert shell.told("verify", RECORDED, "--start", "2021-07-22")["verified"] == 1
    assert shell.told("verify")["differ"] == 0
    for arguments, code, word in (
        (("verify", "um.trade.CTKUSDT"), 1, "was ever certified"), (("verify", "nothing.json"), 2, "is not there"),
        (("verify", "0123456789abcdef"), 1, "is kept here"), (("certify", "um.trade.BTCUSDT"), 1, "nothing is held"),
        (("certify", RECORDED, "--end", "2099-01-01"), 2, "future"), (("certify", "sushi"), 2, "must read"),
        (("certify", RECORDED, "--start", "2021-07-23", "--end", "2021-07-22"), 2, "before end"),
        (("retain", "--series", "um.trade.BTCUSDT"), 1, "nothing was ever held"), (("retain", "--at", "here"), 2, "address"),
    ):  # fmt: skip
        said = shell.run(*arguments)
        assert (said.code, word in said.err) == (code, True), (arguments, said)


def test_a_row_that_went_and_a_certificate_that_was_altered_are_named(fed: Fed, shell: Shell, tmp_path: Path) -> None:
    certificate = shell.told("certify", RECORDED)
    shutil.copytree(fed.service.data_dir, tmp_path / "data")
    (tmp_path / "data" / "service.json").unlink()
    shell.use(tmp_path / "data")
    assert shell.told("verify", certificate["id"])["verified"] == 1

    async def change() -> int:
        store = EmbeddedStore(tmp_path / "data", 1 << 20)
        [series] = [one for one in await store.series() if one.id == RECORDED]
        rows = await store.scan(series)
        times, counts = np.unique(rows.time_ms, return_counts=True)
        alone_ms = int(times[counts == 1][2])
        assert await store.drop(series, Span(alone_ms, alone_ms + 1)) == 1
        await store.close()
        return int(rows.key[rows.time_ms == alone_ms][0])

    key = asyncio.run(change())
    code, _, err = shell.run("verify", certificate["id"])
    assert (code, f"agg_id {key} is missing" in err) == (1, True), err
    code, out, _ = shell.run("verify", certificate["id"], "--json")
    [proof] = json.loads(out)["proofs"]
    assert (code, proof["mismatches"]) == (1, [{"kind": "missing", "first_key": key, "last_key": key, "rows": 1}])
    with sqlite3.connect(tmp_path / "data" / "metadata.sqlite") as meta:
        meta.execute("UPDATE certificates SET body = replace(CAST(body AS TEXT), '\"stream\"', '\"archive\"')")
    code, _, err = shell.run("verify", certificate["id"])
    assert (code, "was altered" in err) == (1, True)
    assert shell.told("retain")["waiting"] == len(fed.rows), "the command does it where no service runs"


def test_what_is_let_go_is_certified_told_and_known_again_when_it_comes_back(fed: Fed, shell: Shell) -> None:
    """The last of them: afterwards the service holds less, and then everything again."""
    service, rows = fed.service, fed.rows[RECORDED]
    path, query = asked(RECORDED)
    due = [service.post("/retention/run", {"dry_run": True, "force": force}).json() for force in (False, True)]
    assert [len(one["pieces"]) for one in due] == [0, len(fed.rows)], "a dry run says what would go, forced or not"
    done = service.post("/retention/run", {"series": RECORDED, "force": True}).json()
    assert (done["dropped"], done["failed"], len(done["pieces"])) == (len(rows), {}, 1)
    [piece] = done["pieces"]
    assert (piece["series"], piece["rows"], piece["kept_days"]) == (RECORDED, len(rows), 7)
    assert service.rows(path, **query) == []
    for series, others in fed.rows.items():
        if series != RECORDED:
            where, what = asked(series)
            assert len(service.rows(where, **what)) == len(others), f"{series} was not asked to go"
    again = service.post("/retention/run", {"series": RECORDED, "force": True})
    assert (again.status_code, again.json()["dropped"], shell.told("retain")["dropped"]) == (200, 0, 0), "twice is once"

    [record] = service.page("/retention/records", series=RECORDED)["data"]
    assert (record["rows"], record["dropped"], record["done"]) == (len(rows), len(rows), True)
    assert record["certificate"] == piece["certificate"]
    certificate = service.page(f"/certificates/{piece['certificate']}")
    assert (certificate["contents"]["rows"], certificate["offences"]) == (len(rows), {})
    span = {"series": RECORDED, "start": certificate["start_ms"], "end": certificate["end_ms"]}
    condition = service.page("/condition", **span)
    assert [(one["condition"], one["reason"]) for one in condition["ranges"]] == [("known_hole", "let go by retention")]
    assert condition["completeness"] == 0
    audited = service.post("/audit/run", {"full": True}).json()
    assert (audited["failed"], [one for one in audited["holes"] if one["series"] == RECORDED]) == ([], [])
    assert service.page("/health", pair="SUSHIUSDT")["health"]["gaps"] in (None, 0)
    assert service.figures().of("retention_rows_total", dataset="agg_trade") == len(rows)
    said = shell.run("verify", piece["certificate"], "--json")
    assert (said.code, json.loads(said.out)["proofs"][0]["status"]) == (1, "let_go")
    assert shell.run("verify").code == 0, "what went by retention is no cause for complaint where nobody asks for it"

    asyncio.run(feed(fed.url, service, fed.payloads))
    assert len(service.rows(path, **query)) == len(rows)
    assert shell.told("verify", piece["certificate"])["verified"] == 1, "the same rows again"
    service.post("/audit/run", {"full": True})
    found = {one["condition"] for one in service.page("/condition", **span)["ranges"]}
    assert found <= {"good", "known_hole", "unverified"}
    first, last = (json.loads(rows[at])["timestamp"] for at in (0, -1))
    whole = service.page("/condition", series=RECORDED, start=first, end=last)
    assert ([one["condition"] for one in whole["ranges"]], whole["completeness"]) == (["good"], 1.0)
