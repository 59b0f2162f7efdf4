"""What the service says of itself while it is played: holes with their lives, feed, counts. All of it over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import Struct

from data_manager.demo.narrator import Narrator
from data_manager.demo.plan import DEAF, OUT
from data_manager.demo.world import Failed, World
from data_manager.domain.errors import Unavailable
from data_manager.domain.time import SECOND_MS, iso

_LOOK_S: Final = 0.15  # of the machine's time
WATCHED: Final = (*OUT, DEAF)
"""Streams of which the feed's own words are passed on."""

_STEPS_TOLD: Final = {"open": "found", "healing": "a job asks the exchange", "healed": "healed"}


class Hole(Struct, frozen=True, kw_only=True):
    """A hole of the ledger. mttd and mttr as GET /health/summary counts them."""

    id: str
    series: str
    start_ms: int
    end_ms: int
    missing: int | None
    state: str
    found_ms: int
    healed_ms: int | None
    history: list[dict[str, Any]]

    @property
    def detected_s(self) -> float:
        """From the first missing row's time until an audit saw the hole."""
        return max(0, self.found_ms - self.start_ms) / SECOND_MS

    @property
    def repaired_s(self) -> float | None:
        """From then until it was healed."""
        return None if self.healed_ms is None else max(0, self.healed_ms - self.found_ms) / SECOND_MS

    @property
    def evidence(self) -> dict[str, Any]:
        """What the source answered last."""
        told = [step["evidence"] for step in self.history if step["evidence"]]
        return told[-1] if told else {}


async def holes(world: World, series: str | None = None, since_ms: int | None = None) -> list[Hole]:
    """The ledger, or that of one series, or of what was missing since then, in order of time."""
    words: dict[str, Any] = {} if series is None else {"series": series}
    words |= {} if since_ms is None else {"start": since_ms}
    page = await world.ask("/audit/holes", limit=1_000, **words)
    found = [Hole(**{name: one[name] for name in Hole.__struct_fields__}) for one in page["data"]]
    return sorted(found, key=lambda one: (one.start_ms, one.series))


async def facts(world: World) -> str:
    """How it stands, in one line."""
    ingest, feed = await asyncio.gather(world.ask("/health/ingest"), world.ask("/health/connections"))
    streams = feed["feed"]["streams"]
    return (
        f"{ingest['new'] + ingest['changed']:,} rows live · {ingest['rate_per_s']:,.0f}/s · "
        f"{streams.get('live', 0)} of {streams['wanted']} streams speak"
    )


async def until(
    check: Callable[[], Awaitable[bool]], narrator: Narrator, world: World, what: str, *, within_s: float
) -> None:
    """Return when check is true, telling meanwhile how it stands. Raises Failed after so much of the machine's time."""
    deadline_s = time.monotonic() + within_s
    with narrator.waiting(what) as tell:
        while not await check():
            if time.monotonic() > deadline_s:
                raise Failed(f"{what}: not within {within_s:.0f} s")
            try:
                tell(f"{what}   {await facts(world)}")
            except Unavailable:
                tell(what)
            await asyncio.sleep(_LOOK_S)


class Reporter:
    """Tells each step in the life of a hole once, as it becomes known. Only of what went missing since then."""

    def __init__(self, narrator: Narrator, world: World, since_ms: int) -> None:
        self._narrator = narrator
        self._world = world
        self._since_ms = since_ms
        self._told: set[tuple[str, int, str]] = set()
        self._events: set[tuple[str, str, str]] = set()

    async def look(self) -> list[Hole]:
        """Tell what is new; all holes there are."""
        found = await holes(self._world, since_ms=self._since_ms)
        for one in found:
            for step in one.history:
                mark = (one.id, step["at_ms"], step["state"])
                if mark not in self._told:
                    self._told.add(mark)
                    self._tell(one, step)
        await self._look_at_streams()
        return found

    def _tell(self, hole: Hole, step: dict[str, Any]) -> None:
        said = _STEPS_TOLD.get(step["state"])
        if said is None:
            return
        rows = "rows" if hole.missing is None else f"{hole.missing} row{'s' if hole.missing != 1 else ''}"
        what = f"{hole.series}: {rows} missing" if step["state"] != "healed" else f"{hole.series}: {rows}"
        if step["state"] == "healed":
            self._narrator.done(f"{what} healed, {hole.repaired_s or 0:.0f} s after the hole was found")
        elif step["state"] == "open" and step["by"] == "audit":
            self._narrator.say(f"{what}, found {hole.detected_s:.0f} s after the first of them was due", "!")

    async def _look_at_streams(self) -> None:
        for event in (await self._world.ask("/health/connections"))["feed"]["events"]:
            words = (event["at"], event["what"], " ".join(event["streams"]))
            if words not in self._events:
                self._events.add(words)
                if event["at"] >= iso(self._since_ms):
                    self._tell_event(event["what"], event["streams"])

    def _tell_event(self, what: str, streams: list[str]) -> None:
        watched = [name for name in streams if name in WATCHED]
        named = ", ".join(watched)
        if what == "silent" and watched:
            self._narrator.say(f"feed: {named} is silent, although its socket lives and answers pings", "!")
        elif what.startswith("replaced") and watched:
            self._narrator.say(
                "feed: it got another socket; both delivered for a moment, so nothing beside it was lost"
            )
        elif what == "speaks again" and watched:
            self._narrator.done(f"feed: {named} speaks again")
        elif what == "cut":
            self._narrator.say("feed: a socket was cut", "!")
