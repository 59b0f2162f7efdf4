"""The feed at work: the exchange's websockets to the bus, and what is to be said of it.

In `run` it is a task beside ingest: it has its own connection to the bus, and everything goes over the bus, so that the
stream keeps what ingest has not stored. `data-manager feed` is the same in a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from data_manager.adapters.binance.feed import BinanceFeed
from data_manager.adapters.binance.feed_line import Rules
from data_manager.adapters.binance.feed_names import address_of, streams_of
from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.outbox import NatsOutbox
from data_manager.ports import Clock, Delivery
from data_manager.ports.feed import Heard
from data_manager.service.again import Again
from data_manager.services.feeding import Feeding
from data_manager.settings import Settings

_TELL_S = 5.0
_STATS_LINE_S = 60.0
_STOP_S = 1.5
_STATES = ("live", "waiting", "silent", "never heard", "unknowable")
_log = structlog.get_logger(__name__)


def open_feeder(
    settings: Settings, access: NatsAccess, clock: Clock, let_go: Callable[[Delivery], None] | None
) -> Feeder:
    """The streams that the settings name, to the bus. Nothing is opened yet; close the outbox in the end.

    let_go: is shown every message that a full queue lets go.
    """
    subject = settings.feed_subject

    def shown(message: Heard) -> None:
        if let_go is not None:
            payload = b'{"stream":"%b","data":%b}' % (message.stream.encode(), message.data)
            let_go(Delivery(subject, payload, message.received_ms))

    feed = BinanceFeed(
        address_of(settings.market, settings.binance_ws_url),
        streams_of(settings.market, settings.fed_pairs, settings.fed_streams),
        clock,
        rules=Rules(streams_per_socket=settings.binance_streams_per_socket, behind_ms=settings.binance_lag_max_ms),
        let_go=shown,
    )
    return Feeder(feed, NatsOutbox(access, subject, wants_stream=settings.nats_mode != "core"))


class Feeder:
    """Everything between the exchange and the bus. run() it once."""

    def __init__(self, feed: BinanceFeed, outbox: NatsOutbox) -> None:
        self.feed = feed
        self.outbox = outbox
        self._feeding = Feeding(feed, outbox)
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Feed until stop(). Neither an exchange nor a bus that is away ends it."""
        self.outbox.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.feed.run(), name="feed sockets")
                group.create_task(self._feeding.run(), name="feed bus")
        finally:
            self._done.set()

    async def stop(self) -> None:
        """Hear nothing more; what was heard goes onto the bus, if that takes it at once."""
        self.feed.stop()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._done.wait()
        except TimeoutError:
            _log.warning("not everything that was heard is on the bus", **self.left())
        self.feed.tell_dropped()

    def left(self) -> dict[str, int]:
        """What is heard and not on the bus for sure."""
        return {"waiting": self.feed.waiting, "unconfirmed": self.outbox.owed}

    def again(self) -> Iterator[Again]:
        """What goes on beside it."""
        yield Again("feed drops", _TELL_S, self._tell)
        yield Again("feed stats line", _STATS_LINE_S, self._say_stats)

    async def _tell(self) -> None:
        self.feed.tell_dropped()

    async def _say_stats(self) -> None:
        states = self.feed.states()
        _log.info(
            "feed",
            heard=self.feed.heard.total(),
            confirmed=self.outbox.confirmed,
            dropped=self.feed.dropped,
            sockets=f"{sum(line.current is not None for line in self.feed.lines)} of {len(self.feed.lines)}",
            silent=states["silent"] + states["never heard"],
            **self.left(),
        )

    # ---- what it says of itself ----------------------------------------------------------------------------------

    @property
    def reason(self) -> str | None:
        """Why nothing, or not everything, comes from the exchange; None: it does."""
        return self.feed.reason

    def facts(self) -> dict[str, Any]:
        """Its part of the body of GET /health/connections."""
        outbox, connection = self.outbox, self.outbox.connection
        bus = {
            "connected": connection.connected,
            "reason": connection.reason,
            "durable": outbox.durable,
            "confirmed": outbox.confirmed,
            "unconfirmed": outbox.owed,
            "repeated": outbox.repeated,
            "refused": outbox.refused,
        }
        return {**self.feed.facts(), "bus": bus}

    def figures(self) -> Iterator[Metric]:
        """Its metrics."""
        feed, outbox = self.feed, self.outbox
        heard = CounterMetricFamily("data_manager_feed_messages", "Heard from the exchange.", labels=["stream"])
        for kind, count in feed.heard.items():
            heard.add_metric([kind], count)
        yield heard
        yield CounterMetricFamily("data_manager_feed_confirmed", "Messages the bus has for sure.", outbox.confirmed)
        yield CounterMetricFamily(
            "data_manager_feed_repeated", "Messages sent again, for want of a confirmation.", outbox.repeated
        )
        yield CounterMetricFamily(
            "data_manager_feed_refused", "Times the bus's stream did not take a message.", outbox.refused
        )
        yield CounterMetricFamily(
            "data_manager_feed_dropped", "Messages let go: too large, or the queue was full.",
            feed.dropped + outbox.too_large,
        )  # fmt: skip
        yield GaugeMetricFamily("data_manager_feed_waiting", "Heard, and not given to the bus.", feed.waiting)
        yield GaugeMetricFamily("data_manager_feed_unconfirmed", "Given to the bus, and not confirmed.", outbox.owed)
        yield GaugeMetricFamily("data_manager_feed_connected", "1 while all sockets are there.", feed.reason is None)
        yield from self._of_sockets()
        streams = GaugeMetricFamily("data_manager_feed_streams", "Streams subscribed, by state.", labels=["state"])
        states = feed.states()
        for state in _STATES:
            streams.add_metric([state.replace(" ", "_")], states[state])
        yield streams

    def _of_sockets(self) -> Iterator[Metric]:
        wanted = GaugeMetricFamily("data_manager_feed_sockets_wanted", "Sockets to be open.", labels=["route"])
        opened = GaugeMetricFamily("data_manager_feed_sockets", "Sockets that are open.", labels=["route"])
        cuts = CounterMetricFamily("data_manager_feed_cuts", "Sockets the other side ended.", labels=["route"])
        away = CounterMetricFamily(
            "data_manager_feed_away_seconds", "Time without a socket after a cut.", labels=["route"]
        )
        replaced = CounterMetricFamily(
            "data_manager_feed_replaced", "Sockets replaced while they lived.", labels=["route", "why"]
        )
        lag = GaugeMetricFamily(
            "data_manager_feed_lag_seconds", "Our clock minus the exchange's, the slowest socket.", labels=["route"]
        )
        for route in sorted({line.route for line in self.feed.lines}):
            lines = [line for line in self.feed.lines if line.route == route]
            wanted.add_metric([route], len(lines))
            opened.add_metric([route], sum(line.current is not None for line in lines))
            cuts.add_metric([route], sum(line.cuts for line in lines))
            away.add_metric([route], sum(line.away_s for line in lines))
            lags = [line.current.lag_ms for line in lines if line.current is not None and line.current.lag_ms]
            if lags:
                lag.add_metric([route], max(lags) / 1_000)
            for why in ("old", "silent", "behind"):
                replaced.add_metric([route, why], sum(line.replaced[why] for line in lines))
        yield from (wanted, opened, cuts, away, replaced, lag)
