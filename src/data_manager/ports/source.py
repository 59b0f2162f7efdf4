"""The port behind backfill: rows from a venue's past. Each adapter is one way to ask for them."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from data_manager.domain.batch import Batch, Refused
from data_manager.domain.dataset import Series
from data_manager.domain.finding import Evidence
from data_manager.domain.span import Span


class Wanted(Struct, frozen=True, kw_only=True):
    """What is to be fetched: rows of one series whose time column lies in span.

    after, before: keys of the rows held around a hole, where they are known; then rows strictly between them are
    meant, and a source that can ask by key does so, since several rows may share an instant.
    """

    series: Series
    span: Span
    after: int | None = None
    before: int | None = None


class Offer(Struct, frozen=True, kw_only=True):
    """A part of what is wanted that a source can be asked for now, and what that costs.

    call: as Dataset.refill names it, such as rest:klines. seconds: how long fetching takes, by the source's own limits.
    coarse: what comes is coarser than what was lost, and marked so.
    """

    call: str
    span: Span
    seconds: float
    coarse: bool = False


class Fetched(Struct, frozen=True, kw_only=True):
    """One piece of an answer: all rows that the source has in span, which may be none.

    rows: settled, of one series, checked like live ones; their origin is the call and, for an archive, the file.
    refused: rows the source sent that break a rule, the first hundred of them.

    evidence, for the ledger: request and answered_ms; status; sha256 of the answer, or of the file as published; rows
    and refused, how many; repeated, where a row came twice. Of a file besides: file; republished, the digest of the
    version that was taken in before, where it was another one. Without rows it is the proof that there are none.
    """

    span: Span
    rows: Batch
    refused: Sequence[Refused] = ()
    evidence: Evidence

    @property
    def broken(self) -> int:
        """How many rows broke a rule or could not be read, also those that refused does not tell."""
        told = self.evidence.get("refused")
        return max(len(self.refused), told if isinstance(told, int) else 0)


class Source(Protocol):
    """One way to ask for the past. Raises Unavailable, Throttled (retry_after_s) and BadQuery like all adapters.

    Unavailable was tried again before it rises; asking another source, or this one after retry_after_s, is left.
    Corrupt: an archive whose checksum does not fit, with evidence; nothing of that file was handed over.
    """

    @property
    def name(self) -> str:
        """The part of its calls before the colon: rest or archive."""
        ...

    def offers(self, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
        """What it could fetch of that now, disjoint and in order of time; empty where it cannot help."""
        ...

    def fetch(self, wanted: Wanted, offer: Offer, origin: str) -> AsyncIterator[Fetched]:
        """The rows of the offer's span, piece by piece in order of time; the pieces' spans partition it.

        Bounded memory whatever the span. origin: prefix of the rows' origin, such as job:ID. A piece is handed over
        only when it is whole: what was handed over need not be asked for again. The offer may have been cut: any part
        of its span will do. Close the iterator (aclose) when leaving early.
        """
        ...

    async def knows(self, series: Series) -> bool | None:
        """Whether the venue lists the series' symbol now; None where this source cannot tell. Raises as fetch does."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Digests(Protocol):
    """Which version of each archive file was taken in: what tells a file that was published again."""

    async def digest_of(self, path: str) -> str | None:
        """SHA-256 of the version taken in last; None where none was."""
        ...

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        """This version of the file was taken in. Twice is once. Raises Unavailable."""
        ...
