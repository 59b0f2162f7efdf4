"""`data-manager run` in the time of a simulated exchange: `python -m data_manager.demo.service START_MS SINCE_S SPEED`.

The only place that makes a process go by another clock than the machine's. Settings come from the environment, as for
`run`; everything else is what `run` does.
"""

import asyncio
import os
import sys

from data_manager import app, settings
from data_manager.adapters.clock import Pace, SystemClock
from data_manager.adapters.loop import Loop


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    start_ms, since_s, speed = sys.argv[1:]
    SystemClock.pace = Pace(int(start_ms), float(since_s), float(speed))
    in_force = settings.load(os.environ)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(app.run(in_force, role="all", own_server=True, feeds=True, say=_say))


def _say(banner: str, _: object) -> None:
    print(banner, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
