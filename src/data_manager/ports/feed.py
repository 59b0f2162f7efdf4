"""The port behind the feed: a venue's live streams on one side, our way onto the bus on the other."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct


class Heard(Struct, frozen=True, gc=False):
    """One message of a stream as it came. stream "": it did not say which, and data is the whole of it."""

    received_ms: int
    stream: str
    data: bytes


class Streams(Protocol):
    """A venue's live streams, kept coming: whatever breaks, it connects again."""

    async def run(self) -> None:
        """Keep the streams coming until stop(). Never raises for a venue that is away."""
        ...

    def batches(self) -> AsyncIterator[list[Heard]]:
        """What was heard, in order of arrival; ends after stop(), when what was heard by then is handed over.

        What is not taken waits, to a bound; beyond it the oldest go, and are counted and told.
        """
        ...

    def stop(self) -> None:
        """Hear nothing more."""
        ...


class Outbox(Protocol):
    """Our way onto the bus. It outlives the bus's server: what is not confirmed is sent again."""

    async def send(self, payloads: Sequence[bytes]) -> None:
        """Take these, to be sent in order; waits while too much is unconfirmed."""
        ...

    async def settle(self, within_s: float) -> int:
        """Return when all of it is confirmed, or cannot be, or when that takes too long: how many are not."""
        ...

    @property
    def durable(self) -> bool:
        """Whether a stream keeps what is sent; else only who listens now has it."""
        ...
