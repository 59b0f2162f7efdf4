"""A replica that does nothing but lead: while it believes it holds the lease it writes its epoch down, under the lease.

python -m tests.faults.lease_worker URL HOLDER TERM_S [WALL_SKEW_MS MONOTONIC_RATE]. It says, a line each: `campaigning`,
`leading EPOCH`, `refused` (it believed, and the database knew better), `away`. After SIGUSR1 it stops itself amid the
next write.
"""

import asyncio
import os
import signal
import sys
import time
from typing import NoReturn

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta import leases
from data_manager.adapters.meta.database import Database, connect
from data_manager.domain.errors import Unavailable
from data_manager.ports import Lease, LeaseLost, LeaseState
from data_manager.services.lease import Campaign

NAME = "fault"


class CrookedClock:
    """Wrong by skew_ms, and rate seconds pass on it in one."""

    def __init__(self, skew_ms: int, rate: float) -> None:
        self._skew_ms = skew_ms
        self._rate = rate

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._skew_ms

    def monotonic_s(self) -> float:
        return time.monotonic() * self._rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._rate)


class Worker:
    def __init__(self, database: Database, campaign: Campaign) -> None:
        self.stop_amid = False
        self._database = database
        self._campaign = campaign
        self._said: str | None = None

    async def lead(self) -> None:
        while True:
            if self._said is None and self._campaign.status().epoch > 0:
                self.say("campaigning")
            lease = self._campaign.held()
            if lease is not None:
                await self._write(lease)
            await asyncio.sleep(0.02)

    async def _write(self, lease: Lease) -> None:
        async def note(connection: AsyncConnection) -> None:
            await connection.execute(
                text("INSERT INTO led (epoch, holder) VALUES (:epoch, :holder)"),
                {"epoch": lease.epoch, "holder": lease.holder},
            )
            if self.stop_amid:
                self.stop_amid = False
                os.kill(os.getpid(), signal.SIGSTOP)

        try:
            await leases.write(self._database, lease, note)
            self.say(f"leading {lease.epoch}")
        except LeaseLost:
            self.say("refused")
        except Unavailable:
            self.say("away")

    def say(self, line: str) -> None:
        if line != self._said:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        self._said = line


class Store:
    """Leases as SqlMetaStore has them, on a database this program keeps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_lease(self, name: str, holder: str, term_s: float) -> LeaseState:
        return await leases.take(self._database, name, holder, term_s)

    async def give_back_lease(self, lease: Lease) -> None:
        await leases.give_back(self._database, lease)

    def fenced(self, lease: Lease) -> NoReturn:
        raise NotImplementedError("this program writes by leases.write")


async def main(url: str, holder: str, term_s: float, skew_ms: int = 0, rate: float = 1.0) -> None:
    database = connect(url, answer_s=term_s)
    clock = CrookedClock(skew_ms, rate)
    campaign = Campaign(Store(database), NAME, clock, holder=holder, term_s=term_s, every_s=term_s / 4)
    worker = Worker(database, campaign)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, setattr, worker, "stop_amid", True)
    async with asyncio.TaskGroup() as group:
        group.create_task(campaign.run())
        group.create_task(worker.lead())


if __name__ == "__main__":
    given = sys.argv[1:]
    skew = (int(given[3]), float(given[4])) if len(given) > 3 else (0, 1.0)
    asyncio.run(main(given[0], given[1], float(given[2]), *skew))
