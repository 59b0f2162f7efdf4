"""Backfill jobs run by a command: where no service does the work, the command leads for as long as its jobs take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from data_manager.adapters.clock import SystemClock
from data_manager.domain.condition.partition import EVER
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Conflict, Corrupt, StoreLocked, Unavailable
from data_manager.domain.job import Choice, Job
from data_manager.ports import MetadataStore, SeriesStore
from data_manager.ports.jobs import JobStore
from data_manager.ports.source import Source
from data_manager.services.backfill import Backfiller
from data_manager.services.backfilling.asking import Names
from data_manager.services.backfilling.office import Office
from data_manager.services.ending import ended
from data_manager.services.lease import Campaign
from data_manager.services.planning import by_cost
from data_manager.settings import Settings

CLOCK = SystemClock()
LEASE: Final = "work"
"""The lease of whoever does the work of all."""

_LOOK_S: Final = 0.5

Tell = Callable[[Sequence[Job], str], None]
"""Takes the jobs as they stand, and a remark."""


class Asked(NamedTuple):
    """What a command wants fetched, of each of these series."""

    series: Sequence[Series]
    start_ms: int
    end_ms: int
    priority: int
    source: Choice


async def errand(
    settings: Settings,
    meta: MetadataStore,
    open_store: Callable[[], Awaitable[SeriesStore]],
    open_sources: Callable[[], Sequence[Source]],
    asked: Asked,
    *,
    wait: bool,
    tell: Tell,
) -> list[Job]:
    """Enter the jobs, and run them where no service does; as they stand then. wait: also for what a service does.

    open_store raises StoreLocked while a service writes it. The sources are asked only where jobs are run here: their
    budget and their downloads are those of one process. Raises BadQuery for what nobody can be asked for; nothing was
    entered then.
    """
    sources = open_sources()
    jobs = await _enter(meta, sources, asked)
    if settings.rows_url is not None and not wait:
        return jobs  # a cluster's services run them
    try:
        store = await open_store()
    except StoreLocked:
        return await watched(meta, jobs, tell) if wait else jobs
    return await run_alone(settings, store, meta, sources, jobs, tell)


async def _enter(meta: MetadataStore, sources: Sequence[Source], asked: Asked) -> list[Job]:
    lives = {(one.market, one.symbol): one.life for one in await meta.lives()}
    office = Office(meta, CLOCK, lambda series: lives.get((series.market, series.symbol), EVER), sources)
    names = Names(dataset="series", start="--start", end="--end")
    for series in asked.series:
        office.check(series, asked.start_ms, asked.end_ms, asked.source, names)
    return [
        await office.ask(
            one, asked.start_ms, asked.end_ms, by="cli", priority=asked.priority, source=asked.source, names=names
        )
        for one in asked.series
    ]


async def watched(store: JobStore, jobs: Sequence[Job], tell: Tell) -> list[Job]:
    """The jobs once all of them are over, whoever runs them."""
    while True:
        now = [await _now(store, job) for job in jobs]
        tell(now, "")
        if not any(job.open for job in now):
            return now
        await CLOCK.sleep(_LOOK_S)


async def run_alone(
    settings: Settings,
    store: SeriesStore,
    meta: MetadataStore,
    sources: Sequence[Source],
    jobs: Sequence[Job],
    tell: Tell,
) -> list[Job]:
    """Run the jobs to their end, leading meanwhile. While somebody else leads they are his to run, and only watched."""
    campaign = Campaign(
        meta,
        LEASE,
        CLOCK,
        term_s=settings.leader_election_timeout,
        every_s=settings.heartbeat_s,
    )
    backfiller = Backfiller(
        sources, store.append, CLOCK, owner=campaign.holder, at_once=settings.max_concurrent_tasks, plan=by_cost
    )

    async def work() -> None:
        while True:
            try:
                await campaign.lead(lambda lease: backfiller.turn(meta.fenced(lease)))
            except (Conflict, Corrupt, Unavailable) as error:
                tell([], str(error))
            if campaign.held() is None:
                tell([], f"waiting for {campaign.status().holder or 'the lease'}")
            await CLOCK.sleep(_LOOK_S)

    watching = asyncio.create_task(watched(meta, jobs, tell), name="watch")
    working = asyncio.create_task(work(), name="jobs")
    leading = asyncio.create_task(campaign.run(), name="campaign")
    try:
        await asyncio.wait((watching, working, leading), return_when=asyncio.FIRST_COMPLETED)
        for task in (working, leading):
            if task.done():
                task.result()  # a bug: they do not end by themselves
        return watching.result()
    finally:
        ending: tuple[asyncio.Task[Any], ...] = (watching, working, leading)  # jobs are laid down under the lease
        for one in ending:
            await ended(one)


async def _now(store: JobStore, job: Job) -> Job:
    """The job as it stands, or the one that took it over."""
    found = await store.job(job.id)
    while found is not None and found.into is not None:
        found = await store.job(found.into)
    return found or job
