"""The feed in a process of its own: beside a cluster's bus, or where one core is not enough for feed and service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from data_manager.api import app as http
from data_manager.ports import Clock
from data_manager.service.feeding import Feeder
from data_manager.service.running import server_of
from data_manager.services.periodic import every

_SAY_S = 1.0


class _Figures:
    """What a scrape of this process shows."""

    def __init__(self, feeder: Feeder) -> None:
        self._feeder = feeder

    def collect(self) -> Iterator[Metric]:
        return self._feeder.figures()


async def run_feeder(
    feeder: Feeder,
    stopping: asyncio.Event,
    metrics_at: socket.socket | None,
    say: Callable[[Feeder], None],
    clock: Clock,
) -> None:
    """Feed until stopping is set, then put onto the bus what was heard. metrics_at: a socket that listens."""

    async def tell() -> None:
        say(feeder)

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(feeder.run(), name="feed"), group.create_task(every(_SAY_S, "say", tell, clock))]
        beside += [
            group.create_task(every(one.seconds, one.what, one.work, clock), name=one.what) for one in feeder.again()
        ]
        serving = None
        if metrics_at is not None:
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Figures(feeder))
            server = server_of(http.metrics_app(registry))
            serving = group.create_task(server.serve([metrics_at]), name="metrics")
        await stopping.wait()
        await feeder.stop()
        for task in beside:
            task.cancel()
        if serving is not None:
            server.should_exit = True
