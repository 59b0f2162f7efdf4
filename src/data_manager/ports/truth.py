"""The port behind audits and certificates. Beside MetaStore, by the same adapters.

Writers compare and set: a change names the version it started from, so that two auditors at once cannot both win.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from data_manager.domain.condition.truth import SeriesTruth, TruthChange
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.proof.certificate import Certificate, Ref
from data_manager.domain.span import Span


class TruthStore(Protocol):
    """Coverage, holes, lives of symbols and certificates. Raises Unavailable and Corrupt like the other metadata."""

    async def truth_versions(self) -> Mapping[str, int]:
        """By id of every series ever audited, the version of what is known of it."""
        ...

    async def truth_state(self) -> int:
        """A number that rises with every change: where it is the same, so are all versions. Cheap to ask for."""
        ...

    async def truths(self, series: Sequence[str] | None = None) -> list[SeriesTruth]:
        """What is known of these series (None: of all), in order of id; series nobody audited are left out.

        Where what is kept of one cannot be read, it says so in that one alone (SeriesTruth.unreadable).
        """
        ...

    async def keep_truths(self, changes: Sequence[TruthChange]) -> None:
        """Enter the changes, one per series, all of them or none; durable on return.

        Raises Conflict when a series has another version than the change started from.
        """
        ...

    async def holes(
        self,
        *,
        limit: int,
        offset: int = 0,
        series: str | None = None,
        states: Sequence[HoleState] = (),
        span: Span | None = None,
    ) -> tuple[list[LedgerEntry], int]:
        """A page of the ledger by series and time, and how many entries there are in all. No states: any state.

        span: only entries that share an instant with it.
        """
        ...

    async def lives(self) -> list[SymbolLife]:
        """Of every symbol whose life somebody told, by market and symbol."""
        ...

    async def keep_lives(self, told: Sequence[SymbolLife]) -> None:
        """Keep them, durable on return, each in the place of what was told before; older ones change nothing."""
        ...

    async def keep_certificate(self, certificate: Certificate) -> None:
        """Keep it for good; the same one twice is one.

        Raises Conflict when the newest certificate of its series is not the one it calls the previous: then somebody
        else's came first, and nothing is kept.
        """
        ...

    async def certificates(
        self, *, limit: int, offset: int = 0, series: str | None = None, span: Span | None = None
    ) -> tuple[list[Certificate], int]:
        """A page of certificates, the newest first, and how many there are in all.

        span: only those that share an instant with it.
        """
        ...

    async def certificate_refs(self, *, series: str | None = None, from_ms: int = 0) -> list[Ref]:
        """All certificates issued at from_ms or later, without what they say, the oldest first."""
        ...

    async def certificate(self, certificate_id: str) -> Certificate | None:
        """The one with that id, or whose id begins so, as it was issued; None when there is none.

        Raises BadQuery when several begin so, Corrupt when what is kept cannot be read.
        """
        ...
