"""The whole of a metadata store, and the lease under which one replica of many writes into it."""

from typing import Protocol

from msgspec import Struct

from data_manager.domain.errors import Conflict
from data_manager.ports.alerts import AlertStore
from data_manager.ports.health import HealthLog
from data_manager.ports.jobs import JobStore
from data_manager.ports.lineage import LineageStore
from data_manager.ports.notes import MetaStore
from data_manager.ports.source import Digests
from data_manager.ports.truth import TruthStore


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
