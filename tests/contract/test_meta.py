"""What every metadata store promises: SQLite, and MySQL or MariaDB (tests/mysql_server.py says which)."""

import asyncio
import hashlib
import os
import re
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, event, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import Pool
from sqlalchemy.schema import CreateTable

from data_manager.adapters.meta import sql
from data_manager.adapters.meta.database import connect
from data_manager.adapters.meta.failures import Contended, Forbidden, Refused, translated
from data_manager.adapters.meta.findings import advance
from data_manager.adapters.meta.migrate import migrate
from data_manager.adapters.meta.sql import SqlMetaStore, count_again, if_newer, open_meta
from data_manager.adapters.meta.tables import Merge, datasets, dead_letters, findings, metadata, upsert
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadQuery, BadSetting, Corrupt, Unavailable
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import DeadLetter, KeptDeadLetter, SeriesStatistics
from tests.mysql_server import FreshDatabase

NOW_MS = 1_700_000_000_000


@pytest.fixture
async def url(fresh_database: FreshDatabase) -> str:
    """An empty database."""
    return await fresh_database()


@asynccontextmanager
async def opened(url: str, **bounds: Any) -> AsyncIterator[SqlMetaStore]:
    store = await open_meta(url, **bounds)
    try:
        yield store
    finally:
        await store.close()


def patient(url: str) -> str:
    """For several who write at once: SQLite lets nobody queue for its lock, so one of them may starve for a while."""
    return f"{url}?timeout=60" if url.startswith("sqlite") else url


@pytest.fixture
async def meta(url: str) -> AsyncIterator[SqlMetaStore]:
    async with opened(url) as store:
        yield store


def dead(payload: bytes = b"{}", at: int = 0, **other: Any) -> DeadLetter:
    given = {"subject": "market", "reason": "invalid", "field": "data.p", "message": "data.p 'x': must be a number"}
    return DeadLetter(received_ms=NOW_MS + at, payload=payload, **{**given, **other})


async def everything(store: SqlMetaStore) -> list[KeptDeadLetter]:
    letters, total = await store.dead_letters(limit=1_000_000)
    assert len(letters) == total
    return letters


# ── Dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_dead_letter_comes_back_as_it_was(meta: SqlMetaStore) -> None:
    payload = b'{"data":{"s":"BTCUSDT","p":"x"}}'
    await meta.keep_dead([dead(payload)])
    (kept,) = await everything(meta)
    assert len(kept.id) == 32
    assert kept == KeptDeadLetter(
        id=kept.id, received_ms=NOW_MS, first_received_ms=NOW_MS, subject="market", reason="invalid", field="data.p",
        message="data.p 'x': must be a number", sample=payload.decode(), payload_bytes=len(payload), whole=True,
        count=1,
    )  # fmt: skip
    assert await meta.dead_payload(kept.id) == payload


async def test_every_delivery_counts_and_there_is_one_letter(meta: SqlMetaStore) -> None:
    await meta.keep_dead([dead(at=5), dead(at=3), dead(at=9, message="newest", subject="other")])
    await meta.keep_dead([dead(at=1)])
    (kept,) = await everything(meta)
    assert (kept.count, kept.first_received_ms, kept.received_ms) == (4, NOW_MS + 1, NOW_MS + 9)
    assert (kept.message, kept.subject) == ("newest", "other")


async def test_what_differs_in_reason_field_or_payload_is_another_letter(meta: SqlMetaStore) -> None:
    others = [dead(), dead(b"[]"), dead(reason="undecodable"), dead(field=None), dead(field="data.q")]
    await meta.keep_dead([*others, *others])
    assert [kept.count for kept in await everything(meta)] == [2] * 5


async def test_newest_first_page_by_page(meta: SqlMetaStore) -> None:
    await meta.keep_dead([dead(str(i).encode(), at=i % 7, reason="even" if i % 2 == 0 else "odd") for i in range(40)])
    whole = await everything(meta)
    assert [kept.received_ms for kept in whole] == sorted((kept.received_ms for kept in whole), reverse=True)
    pages = [(await meta.dead_letters(limit=9, offset=offset))[0] for offset in range(0, 45, 9)]
    assert [kept for page in pages for kept in page] == whole
    odd, total = await meta.dead_letters(limit=5, reason="odd")
    assert total == 20
    assert odd == [kept for kept in whole if kept.reason == "odd"][:5]
    assert await meta.dead_letters(limit=5, reason="unheard of") == ([], 0)
    assert await meta.dead_letters(limit=0) == ([], 40)


@pytest.mark.parametrize(("limit", "offset", "field"), [(-1, 0, "limit"), (1, -1, "offset"), (2**63, 0, "limit")])
async def test_an_impossible_page_is_refused(meta: SqlMetaStore, limit: int, offset: int, field: str) -> None:
    with pytest.raises(BadQuery) as caught:
        await meta.dead_letters(limit=limit, offset=offset)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("payload", "sample"),
    [
        (b"", ""),
        (b"\xff\xfe{", "\\xff\\xfe{"),
        (b"\x00\x01", "\x00\x01"),
        ("币安人生".encode(), "币安人生"),
        (b"a" * 199 + "币".encode(), "a" * 199),  # the sample ends amid a letter
        (b"a" * 198 + b"\xe5\xb8", "a" * 198 + "\\xe5\\xb8"),  # the payload does
        (b"\xff" * 5_000, "\\xff" * 200),
    ],
)
async def test_any_bytes_make_a_readable_sample(meta: SqlMetaStore, payload: bytes, sample: str) -> None:
    await meta.keep_dead([dead(payload)])
    (kept,) = await everything(meta)
    assert kept.sample == sample
    assert await meta.dead_payload(kept.id) == payload


async def test_texts_of_any_kind_fit(meta: SqlMetaStore) -> None:
    lone, long = "half of 🚀: \ud83d", "x" * 100_000
    await meta.keep_dead([dead(reason=lone, field=lone, subject=lone, message=lone)])
    await meta.keep_dead([dead(reason=long, field=long, subject=long, message=long)])
    kept, other = sorted(await everything(meta), key=lambda letter: letter.message)
    assert kept.message == kept.field == "half of 🚀: \\ud83d"
    assert 64 == len(other.reason) < len(other.message) == 1_000
    assert other.message.endswith("…")


async def test_a_long_payload_is_kept_in_part_and_says_so(url: str) -> None:
    long, fits = b"y" * 101, b"z" * 100
    async with opened(url, payload_bytes_max=100) as store:
        await store.keep_dead([dead(long, at=2), dead(fits, at=1)])
        cut, whole = await everything(store)
        assert (cut.payload_bytes, cut.whole, await store.dead_payload(cut.id)) == (101, False, None)
        assert (whole.payload_bytes, whole.whole, await store.dead_payload(whole.id)) == (100, True, fits)
    async with opened(url, payload_bytes_max=200) as store:
        await store.keep_dead([dead(long, at=3)])
        raised = (await everything(store))[0]
        assert (raised.count, raised.whole, await store.dead_payload(raised.id)) == (2, True, long)


async def test_an_unknown_letter_has_no_payload_and_cannot_be_forgotten(meta: SqlMetaStore) -> None:
    for unknown in ("", "0" * 32, "x" * 10_000, "\ud800", "' OR 1=1 --"):
        assert await meta.dead_payload(unknown) is None
        assert await meta.forget_dead({unknown: 1}) == 0


async def test_forgotten_letters_are_gone_once(meta: SqlMetaStore) -> None:
    await meta.keep_dead([dead(str(number).encode(), at=number) for number in range(4)])
    *newest, oldest = await everything(meta)
    assert await meta.forget_dead({letter.id: letter.count for letter in newest}) == 3
    assert await meta.forget_dead({letter.id: letter.count for letter in newest}) == 0
    assert await everything(meta) == [oldest]
    assert await meta.dead_payload(newest[0].id) is None
    assert await meta.forget_dead({}) == 0


async def test_a_letter_that_came_again_is_not_forgotten(meta: SqlMetaStore) -> None:
    await meta.keep_dead([dead(b"1"), dead(b"2")])
    seen = {letter.id: letter.count for letter in await everything(meta)}
    await meta.keep_dead([dead(b"2")])
    assert await meta.forget_dead(seen) == 1
    assert [(letter.sample, letter.count) for letter in await everything(meta)] == [("2", 2)]


async def test_the_oldest_make_room_for_the_newest(url: str) -> None:
    async with opened(url, dead_letters_max=10) as store:
        await store.keep_dead([dead(str(i).encode(), at=i) for i in range(8)])
        assert store.dead_evicted == 0
        await store.keep_dead([dead(b"0", at=100)])  # came again: no longer the oldest
        await store.keep_dead([dead(str(i).encode(), at=i) for i in range(8, 12)])
        assert store.dead_evicted == 2
        assert [kept.received_ms - NOW_MS for kept in await everything(store)] == [100, 11, 10, 9, 8, 7, 6, 5, 4, 3]


async def test_bytes_are_bounded_too(url: str) -> None:
    async with opened(url, dead_bytes_max=1_000, payload_bytes_max=300) as store:
        await store.keep_dead([dead(bytes([i]) * 900, at=i) for i in range(7)])
        kept = await everything(store)
        assert [letter.received_ms - NOW_MS for letter in kept] == [6, 5, 4]
        assert store.dead_evicted == 4
        await store.keep_dead([dead(b"small", at=9)])
        assert len(await everything(store)) == 4


async def test_a_call_larger_than_the_bounds_keeps_its_newest(url: str) -> None:
    async with opened(url, dead_letters_max=50) as store:
        await store.keep_dead([dead(str(i).encode(), at=i) for i in range(3_000)])
        assert [kept.received_ms - NOW_MS for kept in await everything(store)] == list(range(2_999, 2_949, -1))
        assert store.dead_evicted == 2_950


@pytest.mark.parametrize("bounds", [{"dead_letters_max": 0}, {"payload_bytes_max": -1}, {"dead_bytes_max": 10}])
async def test_bounds_that_hold_nothing_are_refused(url: str, bounds: dict[str, int]) -> None:
    with pytest.raises(BadSetting):
        await open_meta(url, **bounds)


async def test_nothing_is_nothing(meta: SqlMetaStore) -> None:
    await meta.keep_dead([])
    await meta.keep_statistics([])
    assert await everything(meta) == []
    assert await meta.statistics() == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 50)), max_size=12), max_size=8),
    st.integers(1, 8),
    st.integers(20, 200),
    st.booleans(),
)
def test_any_sequence_of_calls_ends_like_the_model(
    calls: list[list[tuple[int, int]]], letters_max: int, bytes_max: int, small_looks: bool
) -> None:
    """After each call: what is held is the newest that fit both bounds, and what had to go was counted."""
    payloads = [b"%d" % name + b"x" * (7 * name % 40) for name in range(13)]  # of up to 40 bytes, 20 of which are kept
    order = {letter_id_of(payload): payload for payload in payloads}
    model: dict[bytes, tuple[int, int]] = {}  # payload -> newest, count
    evicted = 0

    def keep(call: list[tuple[int, int]]) -> int:
        for name, at in call:
            newest, count = model.get(payloads[name], (at, 0))
            model[payloads[name]] = (max(newest, at), count + 1)
        held = sorted(((model[payload][0], letter_id) for letter_id, payload in order.items() if payload in model))
        gone = 0
        while len(model) > letters_max or sum(min(len(payload), 20) for payload in model) > bytes_max:
            del model[order[held.pop(0)[1]]]
            gone += 1
        return gone

    async def play(url: str) -> None:
        nonlocal evicted
        bounds = {"dead_letters_max": letters_max, "dead_bytes_max": bytes_max, "payload_bytes_max": 20}
        async with opened(url, **bounds) as store:
            for call in calls:
                await store.keep_dead([dead(payloads[name], at=at) for name, at in call])
                evicted += keep(call)
                found = {one.sample.encode(): (one.received_ms - NOW_MS, one.count) for one in await everything(store)}
                assert (found, store.dead_evicted) == (model, evicted)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if small_looks:  # so that making room takes several looks
            patch.setattr(sql, "_LOOK_LEAST", 1)
            patch.setattr(sql, "_LOOK_MOST", 2)
        asyncio.run(play(f"sqlite:///{folder}/meta.db"))


def letter_id_of(payload: bytes) -> str:
    """As the store names it."""
    return hashlib.sha256(b"invalid\0data.p\0" + payload).hexdigest()[:32]


# ── Statistics of series ─────────────────────────────────────────────────────────────────────────────────────────────

MINUTE = Series("um", "candle", "BTCUSDT", "1m")
MONTH = Series("um", "candle", "BTCUSDT", "1M")
TRADES = Series("cm", "trade", "币安人生USD_PERP")


def statistics(series: Series, rows: int = 5, at: int = 0, **other: Any) -> SeriesStatistics:
    given = {"first_ms": NOW_MS, "last_ms": NOW_MS + rows, "updated_ms": NOW_MS + at}
    return SeriesStatistics(series=series, rows=rows, **{**given, **other})


async def test_statistics_come_back_sorted_and_a_minute_is_not_a_month(meta: SqlMetaStore) -> None:
    given = [statistics(MINUTE, 2**40), statistics(MONTH, 3), statistics(TRADES, 0, first_ms=None, last_ms=None)]
    await meta.keep_statistics(given)
    await meta.keep_statistics(given)
    assert await meta.statistics() == sorted(given, key=lambda row: row.series.id)


async def test_the_newest_statistics_win_whatever_comes_last(meta: SqlMetaStore) -> None:
    newest = statistics(MINUTE, 9, at=9, storage="mongodb")
    await meta.keep_statistics([statistics(MINUTE, 1, at=1), newest, statistics(MINUTE, 5, at=5)])
    await meta.keep_statistics([statistics(MINUTE, 7, at=7)])
    assert await meta.statistics() == [newest]


async def test_the_predecessors_columns_are_filled(meta: SqlMetaStore, url: str) -> None:
    await meta.keep_statistics([statistics(MINUTE, at=1)])
    await meta.keep_statistics([statistics(MINUTE, at=60_000)])
    (row,) = await rows_of(url, "SELECT * FROM datasets")
    assert (row["dataset_id"], row["category"], row["update_frequency"]) == ("um.candle.BTCUSDT.1m", "candle", "1m")
    assert str(row["created_at"]).startswith("2023-11-14 22:13:20"), "UTC, whatever the zone of this machine"
    assert str(row["updated_at"]).startswith("2023-11-14 22:14:20")


async def rows_of(url: str, question: str) -> list[dict[str, Any]]:
    database = connect(url)
    async with database.writing() as connection:
        answer = await connection.execute(text(question))
        rows = [dict(row) for row in answer.mappings()] if answer.returns_rows else []
    await database.close()
    return rows


# ── Findings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def finding(at: int = 0, **other: Any) -> Finding:
    given = {"kind": FindingKind.SILENCE, "series": "um.trade.BTCUSDT", "stream": "trade", "severity": "warning"}
    given |= {"start_ms": NOW_MS + at, "found_ms": NOW_MS + at, "evidence": {"last_event_ms": NOW_MS, "why": None}}
    version = other.pop("version", None)
    return msgspec.structs.replace(found(**{**given, **other}), version=version)


async def all_findings(store: SqlMetaStore, **wanted: Any) -> list[Finding]:
    page, total = await store.findings(limit=1_000_000, **wanted)
    assert len(page) == total
    return page


async def test_a_finding_comes_back_as_it_was(meta: SqlMetaStore) -> None:
    given = [
        finding(3),
        finding(2, series=None, severity="critical", end_ms=NOW_MS + 9, evidence={"名": "é😀", "n": 2**60}),
        finding(1, kind=FindingKind.DROPPED, stream=None, series="cm.candle.币安人生USD_PERP.1M", evidence={}),
    ]
    await meta.keep_findings(given)
    await meta.keep_findings(given)
    await meta.keep_findings([])
    assert await all_findings(meta) == given


async def test_findings_come_newest_first_in_pages_and_by_what_they_are(meta: SqlMetaStore) -> None:
    silent = [finding(at) for at in range(5)]
    dropped = [finding(at, kind=FindingKind.DROPPED, series=None) for at in range(5, 8)]
    over = silent[1].resolved(NOW_MS + 100, NOW_MS + 50)
    await meta.keep_findings([*silent, *dropped, over])
    newest_first = [*dropped[::-1], silent[4], silent[3], silent[2], over, silent[0]]
    assert await all_findings(meta) == newest_first
    assert await meta.findings(limit=3, offset=2) == (newest_first[2:5], 8)
    assert await all_findings(meta, kind=FindingKind.DROPPED) == dropped[::-1]
    assert await all_findings(meta, kind=FindingKind.STALE) == []
    assert await all_findings(meta, series="um.trade.BTCUSDT") == newest_first[3:]
    assert await all_findings(meta, series="um.trade.btcusdt") == []
    assert await all_findings(meta, open_only=True, kind=FindingKind.SILENCE) == [silent[at] for at in (4, 3, 2, 0)]
    with pytest.raises(BadQuery):
        await meta.findings(limit=-1)


def versions() -> st.SearchStrategy[Finding]:
    """Versions of one finding; evidence follows from what is known, so that equal knowledge says the same."""

    def version(end: int | None, resolved: int | None) -> Finding:
        end_ms = None if end is None else NOW_MS + end
        one = finding(end_ms=end_ms, evidence={"end": end, "resolved": resolved})
        return one if resolved is None else one.resolved(NOW_MS + resolved, NOW_MS + 1)

    return st.builds(version, st.none() | st.integers(1, 9), st.none() | st.integers(1, 9))


@settings(max_examples=25, deadline=None)
@given(st.lists(versions(), min_size=1, max_size=6), st.data())
def test_versions_meet_in_any_order_and_nothing_goes_back(given: list[Finding], data: st.DataObject) -> None:
    def rank(one: Finding) -> tuple[int, int]:
        return one.resolved_ms or -1, one.end_ms or -1

    shuffled = data.draw(st.permutations(given))
    best = max(given, key=rank)

    async def kept(order: list[Finding], folder: str) -> Finding:
        async with opened(f"sqlite:///{folder}/meta.db") as store:
            for one in order:
                await store.keep_findings([one])
            (held,) = await all_findings(store)
            return held

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        one, two = asyncio.run(kept(given, folder)), asyncio.run(kept(shuffled, other))
    for held in (one, two):
        assert held.resolved_ms == max((v.resolved_ms for v in given if v.resolved_ms is not None), default=None)
        assert held.end_ms == max((v.end_ms for v in given if v.end_ms is not None), default=None)
        assert held.evidence in [v.evidence for v in given if rank(v)[0] == rank(best)[0]]


async def test_of_what_may_shrink_or_come_back_the_highest_version_stands(meta: SqlMetaStore) -> None:
    whole = finding(end_ms=NOW_MS + 9, evidence={"missing": 9}, version=4)
    part = msgspec.structs.replace(whole, start_ms=NOW_MS + 3, end_ms=NOW_MS + 5, evidence={"missing": 2}, version=5)
    over = part.resolved(NOW_MS + 20, NOW_MS + 20)
    again = msgspec.structs.replace(whole, found_ms=NOW_MS + 30, version=7)
    for told, held in [
        (whole, whole),
        (part, part),
        (whole, part),
        (over, over),
        (part.resolved(NOW_MS + 21, NOW_MS), part.resolved(NOW_MS + 21, NOW_MS)),
        (again, again),
        (over, again),
    ]:
        await meta.keep_findings([told])
        assert await all_findings(meta) == [held]


async def test_what_grows_says_how_much_in_its_newest_version(meta: SqlMetaStore) -> None:
    await meta.keep_findings([finding(end_ms=NOW_MS + 5, evidence={"events": 3})])
    await meta.keep_findings([finding(end_ms=NOW_MS + 5, evidence={"events": 4}, found_ms=NOW_MS + 77)])
    (held,) = await all_findings(meta)
    assert (held.evidence, held.found_ms) == ({"events": 4}, NOW_MS)


async def test_the_oldest_resolved_make_room_then_the_oldest(url: str) -> None:
    async with opened(url, findings_max=4) as store:
        await store.keep_findings([finding(at) for at in range(4)])
        await store.keep_findings([finding(at).resolved(NOW_MS + 50, NOW_MS + 40) for at in (2, 3)])
        await store.keep_findings([finding(4)])
        assert [one.start_ms - NOW_MS for one in await all_findings(store)] == [4, 3, 1, 0]
        await store.keep_findings([finding(at) for at in (5, 6)])
        assert [one.start_ms - NOW_MS for one in await all_findings(store)] == [6, 5, 4, 1]


async def test_writers_of_findings_beside_each_other_agree(url: str) -> None:
    given = [finding(at) for at in range(50)]
    async with opened(url) as one, opened(url) as other:
        await asyncio.gather(*(store.keep_findings(given[i:]) for i in range(10) for store in (one, other)))
        assert await all_findings(one) == given[::-1]


async def test_a_bound_of_nothing_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="findings_max"):
        await open_meta(url, findings_max=0)


# ── More than one ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_kept_is_there_after_reopening(url: str) -> None:
    async with opened(url) as store:
        await store.keep_dead([dead(b"1")])
        await store.keep_statistics([statistics(MINUTE)])
        before = await everything(store)
    async with opened(url) as store:
        assert await everything(store) == before
        assert await store.statistics() == [statistics(MINUTE)]
        assert await store.healthy()


async def test_a_kept_letter_is_seen_by_another_store_at_once(meta: SqlMetaStore, url: str) -> None:
    async with opened(url) as other:
        await meta.keep_dead([dead()])
        assert await everything(other) == await everything(meta)


async def test_writers_beside_each_other_lose_no_count(url: str) -> None:
    url = patient(url)
    async with opened(url) as one, opened(url) as other:
        letters = [dead(str(i).encode(), at=i) for i in range(20)]
        calls = [store.keep_dead(letters[i % 5 :]) for i in range(12) for store in (one, other)]
        pages = [store.dead_letters(limit=10) for store in (one, other) for _ in range(5)]
        await asyncio.gather(*calls, *pages)
        counts = sorted(kept.count for kept in await everything(one))
        assert sum(counts) == 2 * sum(len(letters[i % 5 :]) for i in range(12))


@pytest.mark.parametrize("most", [1, 7])
async def test_stores_that_make_room_beside_each_other_agree(url: str, most: int) -> None:
    bounds = {"dead_letters_max": most, "findings_max": most}
    url = patient(url)
    async with opened(url, **bounds) as one, opened(url, **bounds) as two, opened(url, **bounds) as three:

        async def fill(store: SqlMetaStore, writer: int) -> None:
            for turn in range(15):
                await store.keep_dead([dead(f"{writer} {turn} {i}".encode(), at=turn) for i in range(4)])
                await store.keep_findings([finding(turn * 100 + i, series=f"um.trade.{writer}") for i in range(4)])

        await asyncio.gather(*(fill(store, number) for number, store in enumerate([one, two, three] * 2)))
        await one.keep_dead([dead(b"last", at=100)])
        await one.keep_findings([finding(10_000)])
        assert len(await everything(one)) == len(await all_findings(one)) == most
        assert sum(store.dead_evicted for store in (one, two, three)) == 6 * 15 * 4 + 1 - most


async def test_a_closed_store_says_so(url: str) -> None:
    store = await open_meta(url)
    await store.close()
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.healthy()
    with pytest.raises(Unavailable, match="closed"):
        await store.keep_dead([dead()])


# ── When the database is away (SQLite: every way a file can fail) ────────────────────────────────────────────────────


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder any user may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write in folder, not even root: he becomes somebody else for a while."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


async def refused(attempt: Callable[[], Awaitable[object]], kind: type[Exception], *words: str) -> None:
    """attempt fails with kind and a message that holds words and no SQL."""
    with pytest.raises(kind) as caught:
        await attempt()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert not any(word in message for word in ("SELECT", "INSERT", "PRAGMA", "sqlalche.me", "sqlite3.", "[SQL"))


async def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    with read_only(folder):
        await refused(lambda: open_meta(f"sqlite:///{folder}/meta.db"), Unavailable, f"{folder}/meta.db", "write")


async def test_a_file_that_became_read_only_still_answers(folder: Path) -> None:
    url = f"sqlite:///{folder}/meta.db"
    async with opened(url) as store:
        await store.keep_dead([dead()])
    read = f"sqlite:///file:{folder}/meta.db?mode=ro&uri=true"
    async with opened(read) as store:
        assert len(await everything(store)) == 1
        await refused(lambda: store.keep_dead([dead()]), Unavailable, "meta.db", "read-only")
        assert await store.healthy()


async def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    await refused(lambda: open_meta(f"sqlite:///{tmp_path}/no/meta.db"), Unavailable, "no/meta.db", "folder must exist")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "meta.db").write_bytes(b"this is a note, not a database\n" * 300)
    await refused(lambda: open_meta(f"sqlite:///{tmp_path}/meta.db"), Corrupt, "meta.db", "no SQLite database")


async def test_a_database_with_damaged_pages(tmp_path: Path) -> None:
    file = tmp_path / "meta.db"
    async with opened(f"sqlite:///{file}") as store:
        await store.keep_dead([dead(str(i).encode() * 100, at=i) for i in range(500)])
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    await refused(lambda: open_meta(f"sqlite:///{file}"), Corrupt, "meta.db", "damaged")


async def test_a_lock_somebody_keeps(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/meta.db"
    await migrate(url)
    async with opened(f"{url}?timeout=0.05") as store:
        holder = sqlite3.connect(tmp_path / "meta.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        await refused(lambda: store.keep_dead([dead()]), Unavailable, "meta.db", "locked")
        assert await store.healthy(), "readers go on beside a writer"
        holder.execute("ROLLBACK")
        holder.close()
        await store.keep_dead([dead()])
        assert len(await everything(store)) == 1


async def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/meta.db"
    async with opened(url) as store:
        await store.keep_dead([dead(b"before")])

    def no_room(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count = 24")
        cursor.close()

    event.listen(Pool, "connect", no_room)
    try:
        async with opened(url) as store:
            big = [dead(bytes([i]) * 4_000, at=i) for i in range(100)]
            await refused(lambda: store.keep_dead(big), Unavailable, "meta.db", "disk is full")
            assert store.dead_evicted == 0
            assert [kept.sample for kept in await everything(store)] == ["before"]
            await store.keep_dead([dead(b"small")])
    finally:
        event.remove(Pool, "connect", no_room)
    async with opened(url) as store:
        await store.keep_dead(big)
        assert len(await everything(store)) == 102


async def test_commits_are_on_the_disk_and_readers_beside_writers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/meta.db"
    await migrate(url)
    database = connect(url)
    async with database.reading() as connection:
        asked = ["journal_mode", "synchronous", "foreign_keys", "busy_timeout"]
        found = [(await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in asked]
    await database.close()
    assert found == ["wal", 2, 1, 2_000]


# ── URLs and MySQL, without a server ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    ["", "meta.db", "postgresql://u:hunter2@h/db", "mysql://u:hunter2@h:port/db", "sqlite://", "sqlite:///:memory:",
     "mongodb://u:hunter2@h/db", "mysql://u:hunter2@h", "://hunter2@", "mysql://u:hunter2@h:99999/db",
     "mysql://u:hunter2@h:0/db"],
)  # fmt: skip
async def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    for attempt in (open_meta, migrate):
        with pytest.raises(BadSetting) as caught:
            await attempt(url)
        assert "hunter2" not in f"{caught.value!s}{caught.value!r}{caught.value.__cause__}"
        assert "sqlite:////" in str(caught.value)


@pytest.mark.parametrize(
    ("table", "merge", "compared"),
    [
        (dead_letters, count_again, ["received_ms", "first_received_ms", "kept_bytes"]),
        (datasets, if_newer, ["updated_ms"]),
        (findings, advance, ["end_ms", "resolved_ms", "version"]),
    ],
)
def test_mysql_changes_a_column_only_after_it_was_compared(table: Table, merge: Merge, compared: list[str]) -> None:
    """MySQL assigns from left to right, and reads what it has just assigned."""
    words = str(upsert("mysql", table, merge).compile(dialect=mysql.dialect()))
    insert, update = words.split(" ON DUPLICATE KEY UPDATE ")
    assert "IGNORE" not in insert
    assert "%s" not in update, "drivers that fold many rows into one statement leave this part as it is"
    assignments = re.split(r", (?=`?\w+`? = )", update)
    names = [assignment.split(" = ")[0].strip("`") for assignment in assignments]
    for name in compared:
        assert not any(f"{table.name}.{name}" in later for later in assignments[names.index(name) + 1 :])


@pytest.mark.parametrize("table", metadata.tables.values(), ids=metadata.tables)
def test_tables_can_be_made_on_mysql(table: Any) -> None:
    words = str(CreateTable(table).compile(dialect=mysql.dialect()))
    assert "utf8mb4_bin" in words
    assert "InnoDB" in words


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (1045, Refused, "MYSQL_URI"),
        (1142, Forbidden, "grant it SELECT"),
        (1146, Unavailable, "data-manager migrate"),
        (1213, Contended, "try again"),
        (1524, Refused, "ALTER USER"),
        (1836, Refused, "read-only"),
        (2013, Unavailable, "does not answer"),
        (1194, Corrupt, "damaged"),
    ],
)
def test_errors_of_mysql_are_told_by_their_number(number: int, kind: type[Exception], words: str) -> None:
    error = OperationalError("SELECT secret", {"password": "hunter2"}, RuntimeError(number, "hunter2"))
    ours = translated(error, "db:3306/petrosa")
    assert type(ours) is kind
    assert str(ours).startswith("metadata database db:3306/petrosa ")
    assert words in str(ours)
    assert "hunter2" not in str(ours)


def test_an_error_of_mysql_that_we_do_not_know_is_told_in_its_words() -> None:
    ours = translated(OperationalError("ALTER", {}, RuntimeError(1292, "Incorrect datetime value")), "db:3306/petrosa")
    assert type(ours) is Unavailable
    assert "(1292: Incorrect datetime value)" in str(ours)
