"""What every metadata store promises of coverage, the hole ledger and certificates: SQLite, and MySQL or MariaDB."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import update

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.meta.tables import certificates as certificate_table
from data_manager.adapters.meta.tables import coverage as coverage_table
from data_manager.adapters.meta.tables import holes as hole_table
from data_manager.domain.condition.coverage import Audited, Result
from data_manager.domain.condition.partition import Flaw, Life
from data_manager.domain.condition.truth import Mark, SeriesTruth, TruthChange
from data_manager.domain.errors import BadQuery, Conflict, Corrupt
from data_manager.domain.holes.changes import after, reconciled
from data_manager.domain.holes.continuity import Hole
from data_manager.domain.holes.ledger import HoleState, LedgerEntry, Step, moved
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.proof.certificate import Block, Certificate, Contents, KnownHole, id_of, issue
from data_manager.domain.retention import LetGo
from data_manager.domain.span import Span
from data_manager.ports import Lease, LeaseLost
from data_manager.ports.truth import TruthStore
from tests.mysql_server import FreshDatabase

NOW_MS = 1_700_000_000_000
MINUTE, MONTH, TRADES = "um.candle.BTCUSDT.1m", "um.candle.BTCUSDT.1M", "um.trade.币安人生USDT"


@pytest.fixture
async def store(fresh_database: FreshDatabase) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(await fresh_database())
    try:
        yield one
    finally:
        await one.close()


def entry(start: int, end: int, series: str = MINUTE, **other: Any) -> LedgerEntry:
    usual: dict[str, Any] = {
        "id": f"{series[-3:]}-{start}", "series": series, "kind": "grid", "start_ms": start, "end_ms": end, "missing": 1,
        "after": start - 1, "before": None, "state": HoleState.OPEN, "found_ms": NOW_MS, "seen_ms": NOW_MS + 5,
        "root": f"{series[-3:]}-{start}", "history": (Step(NOW_MS, HoleState.OPEN, "audit", "seen", {"rows": 3, "why": None}),),
    }  # fmt: skip
    return LedgerEntry(**{**usual, **other})


def change(series: str = MINUTE, version: int = 0, **other: Any) -> TruthChange:
    usual: dict[str, Any] = {
        "mark": Mark(looked_ms=NOW_MS, swept_ms=NOW_MS - 9, until_ms=7, from_ms=5, anchor_key=-3, rows_before=2**40),
        "coverage": (Audited(0, 7, Result.PASS, 1, NOW_MS), Audited(7, 9, Result.UNKNOWN, 1, NOW_MS)),
        "flaws": (Flaw(3, 4, "spike"), Flaw(5, 6, "dropped", True)),
        "let_go": (LetGo(-9, -5, 1, 2**60),),
    }  # fmt: skip
    return TruthChange(series=series, version=version, **{**usual, **other})


def as_truth(one: TruthChange, holes: Sequence[LedgerEntry] = ()) -> SeriesTruth:
    return SeriesTruth(
        series=one.series, version=one.version + 1, mark=one.mark, coverage=one.coverage, flaws=one.flaws, let_go=one.let_go,
        holes=tuple(holes),
    )  # fmt: skip


def certificate(series: str = MINUTE, issued_ms: int = NOW_MS, previous: str | None = None) -> Certificate:
    contents = Contents(
        rows=2, first_key=1, last_key=2, content="ab", columns={"price": "cd"}, block_keys=4,
        blocks=(Block(0, 2, 2**64 - 1, 1, 0),), sources={"stream": 2},
    )  # fmt: skip
    holes = [KnownHole(1, 2, "open", None)]
    return issue(
        contents, series=series, span=Span(0, 9), checks=["told_once"], offences={"spike": 2}, condition={"good": 9}, holes=holes, rule_version=1, previous=previous, issued_ms=issued_ms
    )  # fmt: skip


async def test_what_was_entered_comes_back_letter_for_letter(store: TruthStore) -> None:
    assert await store.truths() == []
    assert await store.truth_versions() == {}
    holes = [entry(1, 2), entry(5, 9, missing=None, after=None, healed_ms=3, state=HoleState.HEALED, recheck_ms=8)]
    minute, trades = change(entries=tuple(holes)), change(TRADES, mark=Mark(looked_ms=1, swept_ms=2), coverage=())
    month = change(MONTH, entries=(entry(1, 2, MONTH),))
    await store.keep_truths([trades, month, minute])
    everything = [as_truth(month, [entry(1, 2, MONTH)]), as_truth(minute, holes), as_truth(trades)]
    assert await store.truths() == everything
    assert await store.truths([TRADES, MONTH, "um.trade.XYZUSDT", MONTH]) == [everything[0], everything[2]]
    assert await store.truths([]) == []
    assert await store.truth_versions() == dict.fromkeys((MINUTE, MONTH, TRADES), 1)


async def test_the_state_rises_with_every_change(store: TruthStore) -> None:
    assert await store.truth_state() == 0
    await store.keep_truths([change(), change(TRADES)])
    first = await store.truth_state()
    await store.keep_truths([change(version=1)])
    second = await store.truth_state()
    with pytest.raises(Conflict):
        await store.keep_truths([change(version=1)])
    assert 0 < first < second == await store.truth_state()


async def test_a_change_replaces_writes_and_forgets_entries_in_one_go(store: TruthStore) -> None:
    one, two, other = entry(1, 2), entry(4, 6), entry(1, 2, MONTH)
    await store.keep_truths([change(entries=(one, two)), change(MONTH, entries=(other,))])
    grown = replace(two, id=two.id, start_ms=1, missing=None, children=2, attempts=1)
    again = change(version=1, entries=(grown,), absorbed=(one.id,), coverage=(), flaws=())
    await store.keep_truths([again])
    assert await store.truths([MINUTE]) == [as_truth(again, [grown])]
    assert (await store.holes(limit=9))[0] == [other, grown]


async def test_who_comes_second_enters_nothing_of_all_his_changes(store: TruthStore) -> None:
    first = change(entries=(entry(1, 2),))
    await store.keep_truths([first])
    with pytest.raises(Conflict, match=MINUTE):
        await store.keep_truths([change(MONTH), change(entries=(entry(3, 4),))])
    with pytest.raises(Conflict, match=TRADES):
        await store.keep_truths([change(version=1), change(TRADES, version=3)])
    assert await store.truths() == [as_truth(first, [entry(1, 2)])]


async def test_of_auditors_at_once_one_wins_each_time(store: TruthStore) -> None:
    async def audit(number: int) -> bool:
        try:
            await store.keep_truths([change(version=version, entries=(entry(number, number + 1, id=str(number)),))])
        except Conflict:
            return False
        return True

    for version in range(3):
        won = await asyncio.gather(*(audit(10 * version + number) for number in range(4)))
        assert sum(won) == 1
    [held] = await store.truths()
    assert held.version == 3
    assert len(held.holes) == 3


async def test_under_a_lease_that_is_over_nothing_is_entered(store: SqlMetaStore) -> None:
    lease = (await store.take_lease("work", "me", 30)).lease
    await store.fenced(lease).keep_truths([change()])
    await store.give_back_lease(lease)
    await store.take_lease("work", "another", 30)
    with pytest.raises(LeaseLost):
        await store.fenced(lease).keep_truths([change(version=1)])
    assert await store.truth_versions() == {MINUTE: 1}


async def test_pages_of_the_ledger(store: TruthStore) -> None:
    states = [HoleState.OPEN, HoleState.HEALED, HoleState.ABSENT]
    entries = [entry(10 * number, 10 * number + 5, state=states[number % 3]) for number in range(30)]
    other = entry(0, 5, MONTH)
    await store.keep_truths([change(entries=tuple(entries[::-1])), change(MONTH, entries=(other,))])
    assert await store.holes(limit=100) == ([other, *entries], 31)
    assert await store.holes(limit=4, offset=2, series=MINUTE) == (entries[2:6], 30)
    assert await store.holes(limit=0, series=MONTH) == ([], 1)
    assert await store.holes(limit=9, series=MINUTE, span=Span(15, 30)) == (entries[2:3], 1)
    assert await store.holes(limit=9, series=MINUTE, span=Span(14, 31)) == (entries[1:4], 3)
    some, total = await store.holes(limit=99, states=[HoleState.HEALED, HoleState.ABSENT])
    assert (some, total) == ([one for one in entries if one.state is not HoleState.OPEN], 20)
    with pytest.raises(BadQuery):
        await store.holes(limit=-1)


async def test_of_the_lives_of_symbols_what_was_told_later_stands(store: SqlMetaStore) -> None:
    def life(symbol: str, told_ms: int, *bounds: Any) -> SymbolLife:
        return SymbolLife(market="um", symbol=symbol, life=Life(*bounds), source="exchangeInfo", told_ms=told_ms)

    assert await store.lives() == []
    first = [life("币安人生USDT", NOW_MS, 5, None, (Span(7, 9), Span(11, 12))), life("BTCUSDT", NOW_MS)]
    await store.keep_lives(first)
    await store.keep_lives(first)
    assert await store.lives() == first[::-1]
    await store.keep_lives([life("BTCUSDT", NOW_MS - 1, 3, 4), life("ETHUSDT", NOW_MS + 1, 0, 2**53)])
    await store.keep_lives([])
    later = life("币安人生USDT", NOW_MS + 1, 5, 99)
    await store.keep_lives([later])
    assert await store.lives() == [first[1], life("ETHUSDT", NOW_MS + 1, 0, 2**53), later]
    gone = Lease(name="work", holder="nobody", epoch=1, term_s=5.0)
    with pytest.raises(LeaseLost):
        await store.fenced(gone).keep_lives([life("XRPUSDT", NOW_MS)])


async def test_thousands_of_pieces_and_of_series_fit(store: TruthStore) -> None:
    pieces = tuple(Audited(at, at + 1, Result.FAIL, 1, NOW_MS) for at in range(0, 4_000, 2))
    changes = [change(f"um.trade.S{number}USDT", coverage=pieces if number == 7 else ()) for number in range(1_200)]
    await store.keep_truths(changes)
    found = await store.truths([one.series for one in changes])
    assert [one.series for one in found] == sorted(one.series for one in changes)
    assert next(one for one in found if one.series.endswith("S7USDT")).coverage == pieces


async def test_certificates_stay_as_they_were_issued(store: TruthStore) -> None:
    first = certificate()
    later = certificate(issued_ms=NOW_MS + 1, previous=first.id)
    other = certificate(TRADES, NOW_MS + 2)
    with pytest.raises(Conflict, match=MINUTE):
        await store.keep_certificate(later)  # what it follows upon is not there
    for one in (first, later, first, other):
        await store.keep_certificate(one)
    with pytest.raises(Conflict, match=MINUTE):
        await store.keep_certificate(certificate(issued_ms=NOW_MS + 2, previous=first.id))  # somebody else did before
    assert await store.certificates(limit=9) == ([other, later, first], 3)
    assert await store.certificates(limit=1, offset=1, series=MINUTE) == ([first], 2)
    assert await store.certificates(limit=9, series=MINUTE, span=Span(8, 99)) == ([later, first], 2)
    assert await store.certificates(limit=9, span=Span(9, 99)) == ([], 0)
    refs = [(one.id, one.series, one.previous) for one in await store.certificate_refs()]
    assert refs == [(one.id, one.series, one.previous) for one in (first, later, other)]
    assert [one.id for one in await store.certificate_refs(series=MINUTE, from_ms=NOW_MS + 1)] == [later.id]
    assert await store.certificate(other.id[:12]) == other
    with pytest.raises(BadQuery, match="begin"):
        await store.certificate("")
    kept = await store.certificate(first.id)
    assert kept == first
    assert kept is not None
    assert id_of(kept) == kept.id
    assert await store.certificate("unheard of") is None


async def test_of_those_who_certify_at_once_one_comes_first(store: TruthStore) -> None:
    many = [certificate(issued_ms=NOW_MS + number) for number in range(8)]
    done = await asyncio.gather(*map(store.keep_certificate, many), return_exceptions=True)
    assert [type(one) for one in done].count(Conflict) == 7
    assert len(await store.certificate_refs()) == 1


@pytest.mark.parametrize("column", ["spans", "flaws", "let_go"])
async def test_what_cannot_be_read_is_named_and_takes_nothing_else_with_it(store: SqlMetaStore, column: str) -> None:
    await store.keep_truths([change(), change(TRADES)])
    await store.keep_certificate(certificate())
    async with store._database.writing() as connection:
        only = update(coverage_table).where(coverage_table.c.series == MINUTE)
        await connection.execute(only.values({column: b'[[1,2,"fine",1,1]]'}))
        await connection.execute(update(certificate_table).values(body=b"{"))
    lost, whole = await store.truths()
    assert (lost.series, lost.version, lost.coverage, lost.mark) == (MINUTE, 1, (), None)
    assert MINUTE in str(lost.unreadable)
    assert (whole.series, whole.unreadable, whole.coverage) == (TRADES, None, change().coverage)
    with pytest.raises(Corrupt, match=certificate().id):
        await store.certificate(certificate().id)


async def test_what_cannot_be_read_is_forgotten_when_it_is_entered_afresh(store: SqlMetaStore) -> None:
    await store.keep_truths(
        [change(entries=(entry(0, 1), entry(5, 6))), change(TRADES, entries=(entry(0, 1, TRADES),))]
    )
    async with store._database.writing() as connection:
        await connection.execute(update(hole_table).where(hole_table.c.series == MINUTE).values(history=b"{"))
    lost, whole = await store.truths()
    assert (lost.holes, bool(lost.unreadable), len(whole.holes)) == ((), True, 1)
    await store.keep_truths([change(version=1, entries=(entry(5, 6, id="new"),), afresh=True)])
    lost, whole = await store.truths()
    assert ([one.id for one in lost.holes], lost.unreadable, len(whole.holes)) == (["new"], None, 1)


_NAMES = count()
_SPANS = st.tuples(st.integers(0, 38), st.integers(1, 12)).map(lambda at: (at[0], at[0] + at[1]))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(audits=st.lists(st.tuples(_SPANS, st.lists(_SPANS, max_size=4)), max_size=6), jobs=st.randoms())
async def test_the_ledger_kept_is_the_ledger_reconciled(
    store: TruthStore, audits: list[tuple[tuple[int, int], list[tuple[int, int]]]], jobs: Any
) -> None:
    """What reconcile.after() says of entries in memory, whatever was absorbed, split and healed on the way."""
    series = f"um.trade.R{next(_NAMES)}USDT"
    ledger: list[LedgerEntry] = []
    version = 0

    async def keep(written: Sequence[LedgerEntry], absorbed: Sequence[str] = ()) -> None:
        nonlocal version
        await store.keep_truths([change(series, version, entries=tuple(written), absorbed=tuple(absorbed))])
        version += 1
        [held] = await store.truths([series])
        assert list(held.holes) == ledger

    for number, (span, found) in enumerate(audits):
        near = [one for one in ledger if one.start_ms <= span[1] and span[0] <= one.end_ms]
        holes = [Hole(start, end, end - start, None, None, "ids") for start, end in found]
        changes = reconciled(near, Span(*span), holes, series=series, now_ms=NOW_MS + number)
        ledger = after(ledger, changes)
        await keep([one.entry for one in changes], [old for one in changes for old in one.absorbed])
        openable = [one for one in ledger if one.state is HoleState.OPEN]
        if openable:
            healing = moved(jobs.choice(openable), HoleState.HEALING, at_ms=NOW_MS, by="job", why="asked")
            ledger = [healing if one.id == healing.id else one for one in ledger]
            await keep([healing])
