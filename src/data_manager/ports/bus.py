"""The port behind market messages: in from a bus, acknowledged once they are safe."""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

from msgspec import Struct


class Delivery(Struct, frozen=True, gc=False):
    """One message as the bus handed it over. token is the adapter's own: what it needs to acknowledge."""

    subject: str
    payload: bytes
    received_ms: int
    token: str = ""


ErrorType = Literal["connection", "subscription", "general"]
"""Connections that failed or ended; those on which we could not be given messages; what else the driver told of."""


class BusState(Struct, frozen=True, kw_only=True):
    """What a bus knows of itself, for readiness and metrics. None where this kind of bus cannot know."""

    connected: bool
    reason: str | None = None  # why not connected, in words for an operator
    durable: bool = False  # what is not acknowledged comes again
    pending: int | None = None  # stored by the server and not yet delivered, or here and not yet handed over
    reconnects: int = 0
    errors: int = 0
    errors_by_type: dict[ErrorType, int] = {}
    dropped: int = 0  # messages a bus without memory had to let go since the start


class Dropped(Struct, frozen=True):
    """Messages that were let go unread: how many, and between which of our instants.

    count 0: we were away from a bus without memory, and nobody knows how many there were. shown: so many of them were
    handed one by one to whoever asked for that at opening.
    """

    count: int
    first_ms: int
    last_ms: int
    why: Literal["overflow", "away", "discarded"] = "overflow"  # here, between server and us, by the server's bounds
    shown: int = 0


class Bus(Protocol):
    """Market messages in. At least once on a durable bus, at most once otherwise; the state says which."""

    def batches(self, quiet_s: float) -> AsyncIterator[list[Delivery]]:
        """Lists of deliveries as they come, never more than the bound in hand at once.

        An empty list when nothing came for quiet_s seconds, so that the caller can flush. Ends after stop(), when
        everything already taken from the server was handed over. Outlives the server: while it is away the lists are
        empty and state() says why.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the server these are safe. Nothing on a bus without acknowledgements.

        Never raises for a server that is away: what is not acknowledged comes again, and twice is once.
        """
        ...

    def stop(self) -> None:
        """Take nothing more; batches() ends when what was taken is handed over."""
        ...

    def drops(self) -> list[Dropped]:
        """Drops since the last call (on a durable bus: what its own bounds discarded before anyone read it)."""
        ...

    def missed_since(self, since_ms: int) -> Dropped | None:
        """An earlier run took all that came until since_ms. What it tells is to be known before anything is stored.

        The absence from then until this bus began to listen, where it has no memory and listens already; drops() will
        have it too. None: nothing was missed, or it begins to listen later and tells by itself.
        """
        ...

    async def state(self) -> BusState:
        """Fresh facts; asks the server for pending where it can."""
        ...

    async def close(self) -> None:
        """Release the connection. Unacknowledged deliveries go back to the server."""
        ...
