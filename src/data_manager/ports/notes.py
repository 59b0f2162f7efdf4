"""The port behind what is kept beside the rows: dead letters, statistics, findings."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from data_manager.domain.dataset import Series
from data_manager.domain.finding import Finding, FindingKind


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A message, or one event of it, that could not be kept as data. field and message say what was wrong with it."""

    received_ms: int
    subject: str
    reason: str
    field: str | None
    message: str
    payload: bytes


class KeptDeadLetter(Struct, frozen=True, kw_only=True):
    """A dead letter as the store holds it. Equal payloads with equal reason and field are one, with a count."""

    id: str
    received_ms: int  # of the newest
    first_received_ms: int
    subject: str
    reason: str
    field: str | None
    message: str
    sample: str  # the first bytes, as text; what is not UTF-8 shows as backslash escapes
    payload_bytes: int
    whole: bool  # the payload is kept in full and can be replayed
    count: int


class SeriesStatistics(Struct, frozen=True, kw_only=True):
    """What one series held at updated_ms. An emptied series has rows 0 and no times."""

    series: Series
    rows: int
    first_ms: int | None  # of the dataset's time column, in ms UTC; both inclusive
    last_ms: int | None
    updated_ms: int
    storage: str = "embedded"  # which SeriesStore holds it


class MetaStore(Protocol):
    """Everything that is not a row of market data."""

    @property
    def dead_evicted(self) -> int:
        """Dead letters that had to make room for newer ones since the opening."""
        ...

    async def keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters, durable on return, within the bounds given at opening (the oldest make room)."""
        ...

    async def dead_letters(
        self, *, limit: int, offset: int = 0, reason: str | None = None
    ) -> tuple[list[KeptDeadLetter], int]:
        """A page of dead letters, newest first, and how many there are in all."""
        ...

    async def dead_payload(self, letter_id: str) -> bytes | None:
        """The whole payload of one, None when it is unknown or was kept only in part."""
        ...

    async def forget_dead(self, seen: Mapping[str, int]) -> int:
        """Remove these: the count that was seen of each, by id. How many were removed.

        One that came again meanwhile counts more than was seen, and stays: a replay that fails is never forgotten.
        """
        ...

    async def keep_statistics(self, rows: Sequence[SeriesStatistics]) -> None:
        """Keep the newest statistics of each series, durable on return; older ones than are held change nothing."""
        ...

    async def statistics(self) -> list[SeriesStatistics]:
        """Of every series ever kept, sorted by series id."""
        ...

    async def keep_findings(self, findings: Sequence[Finding]) -> None:
        """Keep the newest version of each finding, durable on return, within the bound given at opening.

        What is held never goes back: an end stays or moves on, what is resolved stays resolved, and evidence comes
        from the version that knows most. Over the bound the oldest resolved make room, then the oldest.
        """
        ...

    async def findings(
        self,
        *,
        limit: int,
        offset: int = 0,
        kind: FindingKind | None = None,
        series: str | None = None,
        open_only: bool = False,
        resolved_only: bool = False,
    ) -> tuple[list[Finding], int]:
        """A page of findings, the newest found first, and how many there are in all. series: a series id."""
        ...

    async def healthy(self) -> bool:
        """Whether a trivial question is answered; Unavailable says why not, Outdated that another release writes."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...
