"""The ports behind alerts: where they are kept, and the ways by which they leave us."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from data_manager.domain.alert import Alert, Message
from data_manager.domain.finding import Severity
from data_manager.domain.holes.ledger import HoleState


class OpenFindings(Struct, frozen=True, kw_only=True):
    """Findings of one kind about one series or stream that nobody resolved. severity: the worst of them."""

    kind: str  # of FindingKind, or of a newer version's
    series: str | None
    stream: str | None
    severity: Severity
    count: int
    start_ms: int  # the earliest
    found_ms: int  # the latest


class LiveHoles(Struct, frozen=True, kw_only=True):
    """Entries of the ledger of one series in one state. missing: rows, as far as they could be counted."""

    series: str
    state: HoleState
    count: int
    missing: int
    start_ms: int  # the earliest
    end_ms: int  # the latest
    longest_ms: int
    found_ms: int  # the latest


class AlertStore(Protocol):
    """Alerts and their messages. Beside MetaStore, by the same adapters; raises Unavailable and Corrupt likewise."""

    async def open_findings(self) -> list[OpenFindings]:
        """What findings stand, summed up by kind, series and stream: but for holes, see below, and for mere infos."""
        ...

    async def live_holes(self) -> list[LiveHoles]:
        """What holes are not healed, summed up by series and state; suspected ones are left out."""
        ...

    async def keep_alerts(self, alerts: Sequence[Alert], messages: Sequence[Message]) -> None:
        """Keep these versions, all of them or none; durable on return."""
        ...

    async def alerts(
        self,
        *,
        limit: int,
        offset: int = 0,
        firing: bool | None = None,
        kind: str | None = None,
        series: str | None = None,
    ) -> tuple[list[Alert], int]:
        """A page of alerts, the newest fired first, and how many there are in all. firing None: also those over."""
        ...

    async def alerts_to_judge(self, also: Sequence[str]) -> list[Alert]:
        """All that fire or have something untold, and those with these ids."""
        ...

    async def messages(self, *, limit: int, offset: int = 0) -> tuple[list[Message], int]:
        """A page of messages, the newest first, and how many there are in all."""
        ...

    async def messages_due(self, now_ms: int, limit: int) -> list[Message]:
        """Those of which a delivery is due, the oldest first."""
        ...

    async def messages_made(self, since_ms: int) -> Mapping[str, int]:
        """How many were made since then, by kind."""
        ...

    async def forget_alerts(self, before_ms: int, messages_max: int) -> int:
        """Remove alerts that were over before then and messages made before then, and all but so many of the newest
        messages; how many went. What fires, and what is still to be delivered, stays."""
        ...


class Channel(Protocol):
    """A way by which messages leave us."""

    @property
    def name(self) -> str:
        """webhook, nats, log."""
        ...

    @property
    def shown(self) -> str:
        """Where it leads, without credentials."""
        ...

    async def send(self, message: Message) -> None:
        """Return when the other side has it.

        Raises Unavailable (again later, retry_after_s is obeyed) or Rejected (it never will take it).
        """
        ...
