"""The five ports: what the services need from the outside, and what every adapter promises.

Bus, SeriesStore, MetaStore and Clock are here; Source is in ports_source.py. No driver type crosses a port: adapters
translate their driver's errors at their own door (Unavailable, Conflict, Corrupt).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Conflict
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.span import Span
from data_manager.ports_alerts import AlertStore
from data_manager.ports_health import HealthLog
from data_manager.ports_jobs import JobStore
from data_manager.ports_lineage import LineageStore
from data_manager.ports_source import Digests
from data_manager.ports_truth import TruthStore


class Clock(Protocol):
    """The only source of now. Services take one, so that a day passes in a test in no time."""

    def now_ms(self) -> int:
        """UTC milliseconds; may jump when the machine's clock is set."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back. For durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of this clock."""
        ...


class Delivery(Struct, frozen=True, gc=False):
    """One message as the bus handed it over. token is the adapter's own: what it needs to acknowledge."""

    subject: str
    payload: bytes
    received_ms: int
    token: str = ""


class BusState(Struct, frozen=True, kw_only=True):
    """What a bus knows of itself, for readiness and metrics. None where this kind of bus cannot know."""

    connected: bool
    reason: str | None = None  # why not connected, in words for an operator
    durable: bool = False  # what is not acknowledged comes again
    pending: int | None = None  # stored by the server, not yet delivered to anyone
    reconnects: int = 0
    errors: int = 0
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


class Receipt(Struct, frozen=True):
    """What an append did, row for row: new + changed + duplicate = rows given."""

    new: int = 0
    changed: int = 0
    duplicate: int = 0

    def __add__(self, other: "Receipt") -> "Receipt":
        return Receipt(self.new + other.new, self.changed + other.changed, self.duplicate + other.duplicate)


class Extent(Struct, frozen=True):
    """What is held of one series. Times are of the dataset's time column, in ms UTC, both inclusive."""

    rows: int
    first_key: int
    last_key: int
    first_ms: int
    last_ms: int


class StoreSizes(Struct, frozen=True, kw_only=True):
    """How much room a store takes, in bytes; None where this kind of store cannot tell.

    data_bytes: rows before compression. storage_bytes: on disk, without indexes. index_bytes: indexes on disk.
    """

    rows: int | None = None
    data_bytes: int | None = None
    storage_bytes: int
    index_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        """What a budget is compared with: the larger of data and storage, and the indexes.

        Hosted tiers count data before compression, a disk what is on it: the larger never runs out unseen.
        """
        return max(self.data_bytes or 0, self.storage_bytes) + (self.index_bytes or 0)


class SeriesStore(Protocol):
    """Rows of every dataset, once each. See docs/data-path.md for who calls what."""

    @property
    def kind(self) -> str:
        """What kind of store it is, as answers name it: embedded, mongodb."""
        ...

    @property
    def deletes_by_itself(self) -> bool | None:
        """Whether the database behind it removes what outlived its retention; None: not known yet. Else we have to."""
        ...

    async def append(self, batch: Batch) -> Receipt:
        """Keep the rows of a batch (one dataset, any number of series). Durable on return; twice changes nothing.

        A row whose key is held is a duplicate, or replaces the held one by the dataset's Keep rule (changed; the old
        row is kept as a revision). Rows the dataset calls live (an open candle) replace the live state of their
        series and are never data: changed when newer than what is held, duplicate otherwise.
        Raises Unavailable (try again: what was kept by then is a duplicate) or Corrupt.
        """
        ...

    async def scan(
        self,
        series: Series,
        span: Span | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        descending: bool = False,
        offset: int = 0,
        after: int | None = None,
    ) -> Batch:
        """Rows of one series whose time column lies in span, in key order.

        limit counts from the start, or with descending from the end; the rows come back in the order asked for.
        after: only rows whose first key part lies beyond it in the direction of reading (above; below with
        descending), so that a reader goes on where it stopped whatever was appended meanwhile. Where a key has
        several parts, rows share a first part: to stop among them, go on from the part before with an offset.
        columns None means all. A series that holds nothing gives an empty batch. Raises Corrupt, Unavailable.
        """
        ...

    async def last(self, series: Series, n: int) -> Batch:
        """The n newest rows by key, ascending."""
        ...

    async def live(self, series: Series) -> Batch:
        """The live row of a series (the open candle): one row or none."""
        ...

    async def extent(self, series: Series) -> Extent | None:
        """What is held of a series; None when nothing is."""
        ...

    async def count(self, series: Series, span: Span | None = None) -> int:
        """Rows whose time column lies in span."""
        ...

    async def keys(self, series: Series, span: Span | None = None) -> Batch:
        """The audited columns only (key, time, what continuity needs), ascending by key."""
        ...

    async def drop(self, series: Series, span: Span) -> int:
        """Delete the rows whose time column lies in span; how many there were."""
        ...

    async def series(self) -> list[Series]:
        """Every series that holds a row, sorted."""
        ...

    def version(self, series: Series) -> int | None:
        """A number that differs whenever an answer about the series may differ; None where the store cannot tell.

        It changes no earlier than the rows can be read.
        """
        ...

    async def sizes(self) -> StoreSizes:
        """How much room everything takes. Raises Unavailable."""
        ...

    async def problems(self, now_ms: int) -> list[str]:
        """What is not as it should be in the store's own house (indexes, retention), a line each. May take long."""
        ...

    async def healthy(self) -> bool:
        """Whether a trivial question is answered; Unavailable says why not."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go of the files."""
        ...


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
        """Whether a trivial question is answered. Raises Outdated where only another release may write by now."""
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


class Lease(Struct, frozen=True, kw_only=True):
    """Leave to do what one replica alone may do.

    epoch is one more at each taking and never goes back: what is written under an older one is refused.
    """

    name: str
    holder: str  # of one process: another life of it is another holder; empty: nobody
    epoch: int
    term_s: float  # over so long after the last renewal


class LeaseState(Struct, frozen=True):
    """A lease as it stood at one moment of the database's clock: who holds or held it, and for how long still."""

    lease: Lease
    expires_in_s: float  # 0 or less: it is over


class LeaseLost(Conflict):
    """Somebody else took the lease, or it was given back: stop what was done under it. Nothing was written."""

    def __init__(self, lease: Lease, holder: str, epoch: int) -> None:
        now = f"{holder or 'nobody'} holds epoch {epoch}" if epoch else "it was never taken here"
        super().__init__(f"lease {lease.name}: epoch {lease.epoch} of {lease.holder} is over: {now}")
        self.lease = lease


class Records(MetaStore, TruthStore, JobStore, HealthLog, AlertStore, LineageStore, Protocol):
    """All that is kept in a metadata store."""


class Leases(Protocol):
    """What makes one replica of many the leader. Beside MetaStore, by the same adapters."""

    async def take_lease(self, name: str, holder: str, term_s: float) -> LeaseState:
        """Take the lease if it is over, renew it if holder holds it; how it stands after that, whoever has it.

        Atomic, and by the clock of the database. Raises Unavailable; then it may have been taken all the same.
        """
        ...

    async def give_back_lease(self, lease: Lease) -> None:
        """End it before its term, so that the next one need not wait. Nothing if it is somebody else's by now."""
        ...

    def fenced(self, lease: Lease) -> Records:
        """The same store, each of whose writes takes place only while the lease is in force, checked at the commit.

        They raise LeaseLost otherwise. Writes of more than a moment delay the renewal of the lease.
        """
        ...


class MetadataStore(Records, Leases, Digests, Protocol):
    """The whole of a metadata store."""
