"""The script: everything starts, data flows, the past is fetched, things break, are found and mended, and are judged.

Nobody mends anything here: after the damage is done, the script only asks the service how it stands. Its own promises
are checked on the way; what does not hold raises Failed, and the demonstration ends with exit code 1.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from data_manager.demo.judging import judge
from data_manager.demo.narrator import Narrator
from data_manager.demo.plan import (
    DAMAGED,
    DEAF,
    FUNDED_MS,
    HISTORY_MS,
    OUT,
    OUTAGE_S,
    STREAMS,
    TODAY_MS,
    TORN,
    TORN_MINUTES,
    TORN_MS,
    WITH_TRADES,
    Plan,
)
from data_manager.demo.summary import Incident, Outcome, proof, tell_incidents, tell_outcome, tell_verdicts
from data_manager.demo.watching import Hole, Reporter, facts, holes, until
from data_manager.demo.world import Failed, World, running
from data_manager.domain.errors import Conflict
from data_manager.domain.time import DAY_MS, MINUTE_MS, SECOND_MS, iso

_PATIENCE_S: Final = 240.0  # of the machine's time: whatever takes longer does not happen
_DEAF_AFTER_S: Final = 30  # into the outage
_AFTER_S: Final = 20  # of the exchange's time, so that what came last was said, stored and audited
_GARBAGE: Final = (b"{not json at all", b"\x00\xff\xfe binary", b'{"e":"trade","E":17')
_TORN_SERIES: Final = f"um.candle.{TORN}.1m"


async def play(plan: Plan, narrator: Narrator) -> Outcome:
    """The whole demonstration. Raises Failed and Unavailable; what it came to otherwise."""
    began_s = time.monotonic()
    async with running(plan) as world:
        try:
            return await _acts(plan, narrator, world, began_s)
        except Exception:
            world.keep = True
            narrator.say(f"logs and data are kept in {world.folder}", "✗")
            raise


async def _acts(plan: Plan, narrator: Narrator, world: World, began_s: float) -> Outcome:
    await _everything_starts(plan, narrator, world)
    await _data_flows(narrator, world)
    await _the_past_is_fetched(narrator, world)
    await _rubbish_arrives(narrator, world)
    since_ms = world.now_ms() // SECOND_MS * SECOND_MS + SECOND_MS
    reporter = Reporter(narrator, world, since_ms - MINUTE_MS)
    await _things_break(narrator, world, reporter, since_ms)
    incidents = await _they_are_mended(narrator, world, reporter)
    incidents.append(await _what_nobody_can_mend(narrator, world))
    return await _judgement(plan, narrator, world, incidents, began_s)


# ---- 1, 2 ---------------------------------------------------------------------------------------------------------


async def _everything_starts(plan: Plan, narrator: Narrator, world: World) -> None:
    narrator.title(
        "Petrosa Data Manager, a demonstration",
        f"Everything runs on this machine and nothing leaves it. Seed {plan.seed}; "
        + (f"time goes {plan.speed:g} times as fast as yours." if plan.speed != 1 else "time is yours."),
    )
    narrator.chapter("Everything starts")
    await world.start_exchange()
    narrator.clock = world.now_ms
    narrator.done(
        f"a simulated exchange at {world.exchange}: {len(world.plan.symbols)} symbols, its own past, REST and archives"
    )
    torn_until_ms = TORN_MS + TORN_MINUTES * MINUTE_MS
    await world.fault(
        "missing", dataset="klines", symbol=TORN, interval="1m", from_ms=TORN_MS, until_ms=torn_until_ms,
        where=["rest", "archive"],
    )  # fmt: skip
    took_s = await world.start_service()
    narrator.done(f"nats-server, feed and service at {world.api}, ready {took_s:.1f} s after their start")
    narrator.say(f"look at it while it runs: {world.api}/docs, {world.api}/health/series")


async def _data_flows(narrator: Narrator, world: World) -> None:
    narrator.chapter("Live data flows")
    wanted = len(world.plan.symbols) * len(STREAMS)

    async def all_speak() -> bool:
        feed = (await world.ask("/health/connections"))["feed"]
        return bool(feed["connected"]) and feed["streams"].get("live", 0) >= wanted - len(world.plan.symbols)

    await until(all_speak, narrator, world, "streams begin to speak", within_s=_PATIENCE_S)
    feed = (await world.ask("/health/connections"))["feed"]
    narrator.done(
        f"{feed['streams'].get('live', 0)} of {wanted} streams speak on {len(feed['sockets'])} sockets "
        f"({', '.join(STREAMS)}); thin markets take a moment"
    )
    readiness = await world.ask("/health/readiness")
    narrator.say(f"GET /health/readiness: ready {json.dumps(readiness['ready'])}, {readiness['status']}")
    narrator.say(await facts(world))


# ---- 3 ------------------------------------------------------------------------------------------------------------


async def _the_past_is_fetched(narrator: Narrator, world: World) -> None:
    narrator.chapter("The past is fetched: two days from the archives, this morning from REST")
    end_ms = world.now_ms()
    narrator.say(f"{TORN_MINUTES} minutes of {TORN} on {iso(TORN_MS)[:16]} were torn out of the exchange's own history")
    asked = []
    for symbol in world.plan.symbols:
        asked.append(_job(symbol, "candles", HISTORY_MS, TODAY_MS, timeframe="1m", source="archive"))
        asked.append(_job(symbol, "candles", TODAY_MS, end_ms, timeframe="1m", source="rest"))
        asked.append(_job(symbol, "funding", HISTORY_MS, FUNDED_MS, source="rest"))
    for symbol in WITH_TRADES:
        asked.append(_job(symbol, "agg_trades", HISTORY_MS + DAY_MS, TODAY_MS, source="archive"))
        asked.append(_job(symbol, "agg_trades", TODAY_MS, end_ms, source="rest"))
    began_s = time.monotonic()
    ids = [(await world.post("/backfill/start", **one))["job_id"] for one in asked]
    done: list[dict[str, Any]] = []

    async def all_done() -> bool:
        jobs = {job["job_id"]: job for job in (await world.ask("/backfill/jobs", limit=1_000))["jobs"]}
        done[:] = {who_does(jobs, one)["job_id"]: who_does(jobs, one) for one in ids}.values()
        for job in done:
            if job["status"] == "failed":
                raise Failed(f"backfill of {job['series']}: {job['error_message']}")
        return all(job["status"] == "completed" for job in done)

    await until(all_done, narrator, world, f"POST /backfill/start, {len(ids)} jobs", within_s=_PATIENCE_S)
    seconds = time.monotonic() - began_s
    rows = sum(job["records_fetched"] for job in done)
    narrator.done(f"{len(ids)} jobs, {rows:,} rows in {seconds:.1f} s, checked like live ones and stored beside them")
    await _say_where_from(narrator, world)
    absent = [one for job in done for one in job["absent"] if job["series"] == _TORN_SERIES]
    if not absent:
        raise Failed(f"the job of {_TORN_SERIES} does not say that the source lacks rows")
    narrator.say(
        f"of {TORN} the source lacks {absent[0]['missing']} rows: the job says so, and brings the evidence", "!"
    )


def who_does(jobs: Mapping[str, dict[str, Any]], job_id: str) -> dict[str, Any]:
    """The job itself, or the one that took it over: heals of the same series may."""
    job = jobs[job_id]
    while job["taken_over_by"] is not None:
        job = jobs[job["taken_over_by"]]
    return job


async def _say_where_from(narrator: Narrator, world: World) -> None:
    """A certificate says of every row where it came from."""
    series = f"um.candle.{WITH_TRADES[0]}.1m"
    certificate = await world.post("/certificates", series=series, start=HISTORY_MS, end=TODAY_MS)
    sources = certificate["contents"]["sources"]
    told = ", ".join(f"{rows:,} rows of {origin.rpartition(' ')[2]}" for origin, rows in sources.items())
    narrator.say(f"certificate {certificate['id'][:8]}… of two days of {series}: {told}")


def _job(symbol: str, data_type: str, start_ms: int, end_ms: int, **more: Any) -> dict[str, Any]:
    return {
        "symbol": symbol, "data_type": data_type, "start_time": iso(start_ms), "end_time": iso(end_ms), **more,
    }  # fmt: skip


# ---- 4 ------------------------------------------------------------------------------------------------------------


async def _rubbish_arrives(narrator: Narrator, world: World) -> None:
    narrator.chapter("Rubbish arrives on the bus")
    [trade] = (await world.ask("/data/trades", pair="ETHUSDT", limit=1))["values"]
    await world.publish(*_GARBAGE, _mislabelled(float(trade["price"]), world.now_ms()))
    narrator.say(f"{len(_GARBAGE)} messages that are none, and a book of ETHUSDT under the label btcusdt@depth20@100ms")

    async def all_dead() -> bool:
        return sum((await _dead(world)).values()) >= len(_GARBAGE) + 1

    await until(all_dead, narrator, world, "dead letters", within_s=_PATIENCE_S)
    for one in (await world.ask("/dead-letters", limit=10))["data"]:
        narrator.say(f"dead letter · {one['reason']}: {one['message']}", "!")
    narrator.done("quarantined with their reasons and counted; nothing of them is in the data")


def _mislabelled(price: float, now_ms: int) -> bytes:
    """A whole book as spot sends it, in the publisher's envelope: it names no symbol, and its label is wrong."""
    bids = [[f"{price - at * 0.5:.2f}", "1.5"] for at in range(1, 21)]
    asks = [[f"{price + at * 0.5:.2f}", "1.5"] for at in range(1, 21)]
    book = {"lastUpdateId": 7_000_001, "bids": bids, "asks": asks}
    envelope = {"stream": "btcusdt@depth20@100ms", "data": book, "timestamp": iso(now_ms)}
    return json.dumps({**envelope, "source": "binance-websocket", "version": "1.0"}, separators=(",", ":")).encode()


async def _dead(world: World) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in (await world.ask("/dead-letters", limit=1_000))["data"]:
        found[one["reason"]] += one["count"]
    return found


# ---- 5, 6, 7 ------------------------------------------------------------------------------------------------------


async def _things_break(narrator: Narrator, world: World, reporter: Reporter, since_ms: int) -> None:
    narrator.chapter("Three streams go out for five minutes, a fourth stalls without a word")
    until_ms = since_ms + OUTAGE_S * SECOND_MS
    for name in OUT:
        await world.fault("stall", streams=name, start_ms=since_ms, end_ms=until_ms)
    narrator.say(f"{', '.join(OUT)} say nothing from now on; their sockets live, pings are answered", "!")
    stalled = False
    with narrator.waiting("five minutes without them") as tell:
        while world.now_ms() < until_ms:
            if not stalled and world.now_ms() >= since_ms + _DEAF_AFTER_S * SECOND_MS:
                stalled = True
                await world.fault("deaf", streams=DEAF)
                narrator.say(f"{DEAF} stalls: whoever is connected now hears it no more", "!")
            await reporter.look()
            left_s = max(0, until_ms - world.now_ms()) / SECOND_MS
            tell(f"{left_s:.0f} s of the outage are left   {await facts(world)}")
            await asyncio.sleep(0.15)
    narrator.say("the outage is over. Nobody tells the service, and nobody helps it")
    narrator.say("candles were missed minute by minute; that trades are missing shows when the next id comes")


async def _they_are_mended(narrator: Narrator, world: World, reporter: Reporter) -> list[Incident]:
    narrator.chapter("Found, healed from REST, certified: by itself, while live data goes on")
    found: list[Hole] = []

    async def all_mended() -> bool:
        found[:] = [one for one in await reporter.look() if one.series in DAMAGED]
        by_series = {name: [one for one in found if one.series == name] for name in DAMAGED}
        mended = all(some and all(one.state == "healed" for one in some) for some in by_series.values())
        return mended and await _all_certified(world, found)

    await until(all_mended, narrator, world, "holes become jobs, jobs bring rows", within_s=_PATIENCE_S)
    incidents = []
    for name in DAMAGED:
        what = "silent stall" if name == DAMAGED[-1] else "outage"
        mine = [one for one in found if one.series == name]
        incidents.append(Incident(what=what, series=name, holes=mine, certificates=await _certificates(world, name)))
    for one in incidents:
        span = {"start": min(hole.start_ms for hole in one.holes), "end": max(hole.end_ms for hole in one.holes)}
        condition = await world.ask("/condition", series=one.series, **span)
        words = Counter(part["condition"] for part in condition["ranges"])
        narrator.done(
            f"GET /condition?series={one.series}: {', '.join(sorted(words))}; completeness {condition['completeness']}"
        )
    return incidents


async def _all_certified(world: World, found: list[Hole]) -> bool:
    return all([await _certificates(world, name) for name in {one.series for one in found}])


async def _certificates(world: World, series: str) -> list[str]:
    page = await world.ask("/certificates", series=series, limit=100)
    return [one["id"] for one in page["data"]]


async def _what_nobody_can_mend(narrator: Narrator, world: World) -> Incident:
    narrator.chapter("What nobody can mend is known, and proven")
    found: list[Hole] = []

    async def proven() -> bool:
        torn = await holes(world, _TORN_SERIES)
        found[:] = [one for one in torn if one.end_ms > TORN_MS and one.start_ms < TORN_MS + TORN_MINUTES * MINUTE_MS]
        return bool(found) and all(one.state == "absent_at_source" for one in found)

    await until(proven, narrator, world, "the source is asked twice", within_s=_PATIENCE_S)
    for one in found:
        narrator.say(f"{one.series}: {one.missing} rows from {iso(one.start_ms)} are absent at the source itself", "!")
        narrator.say(proof(one))
    narrator.done("it costs no more requests, stays visible in every answer, and will be asked again later")
    return Incident(what="absent at source", series=_TORN_SERIES, holes=found, certificates=[], stays=True)


# ---- 8 ------------------------------------------------------------------------------------------------------------


async def _judgement(
    plan: Plan, narrator: Narrator, world: World, incidents: list[Incident], began_s: float
) -> Outcome:
    narrator.chapter("Judgement: what is held against what the exchange knows to be true")
    until_ms = world.now_ms() // SECOND_MS * SECOND_MS
    with narrator.waiting("what was said last arrives"):
        await world.sleep(_AFTER_S + 2 * plan.speed)
        await until(lambda: _all_stored(world), narrator, world, "the bus is drained", within_s=_PATIENCE_S)
    known = [hole for one in incidents if one.stays for hole in one.holes]
    with narrator.waiting("every row of every series is compared"):
        verdicts = await judge(world, until_ms, known)
        issued, proven = await _proofs(world)
    ingest = {name: value for name, value in (await world.ask("/health/ingest")).items() if name != "series"}
    dead = dict(await _dead(world))
    tell_verdicts(narrator, verdicts)
    outcome = Outcome(
        seed=plan.seed, speed=plan.speed, seconds=time.monotonic() - began_s, incidents=incidents, verdicts=verdicts,
        ingest=ingest, dead_letters=dead, certificates=issued, proven=proven,
    )  # fmt: skip
    await world.stop()
    outcome.stopped_s = world.stopped_s
    narrator.clock = None
    narrator.chapter("The end")
    tell_incidents(narrator, incidents)
    tell_outcome(narrator, outcome)
    for problem in outcome.problems():
        narrator.say(problem, "✗")
    if outcome.holds:
        narrator.done(
            f"every row the exchange has is held, once, as it said it, and what it lacks is known; played in "
            f"{outcome.seconds:.0f} s, stopped in {outcome.stopped_s or 0:.1f} s"
        )
    else:
        world.keep = True
        narrator.say(f"logs and data are kept in {world.folder}", "✗")
    return outcome


async def _all_stored(world: World) -> bool:
    ingest, feed = await asyncio.gather(world.ask("/health/ingest"), world.ask("/health/connections"))
    bus = feed["feed"]["bus"]
    return not (ingest["in_flight"] or ingest["pending"] or feed["feed"]["waiting"] or bus["unconfirmed"] > 50)


async def _proofs(world: World) -> tuple[int, int]:
    """How many certificates there are, and how many of them hold now."""
    ids = [one["id"] for one in (await world.ask("/certificates", limit=100))["data"]]
    turn = asyncio.Semaphore(4)

    async def holds(one: str) -> bool:
        async with turn:
            return await _holds(world, one)

    return len(ids), sum(await asyncio.gather(*map(holds, ids)))


async def _holds(world: World, certificate: str) -> bool:
    while True:
        try:
            told = await world.post(f"/certificates/{certificate}/verify")
            break
        except Conflict:  # others are being verified
            await asyncio.sleep(0.1)
    while "holds" not in told:
        await asyncio.sleep(0.1)
        told = await world.ask(told["href"])
    return bool(told["holds"])
