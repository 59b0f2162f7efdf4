"""Verify: does a series still hold what a certificate says, and is the chain it hangs on whole?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Corrupt, NotFound
from data_manager.domain.proof.certificate import Certificate, id_of
from data_manager.domain.proof.locate import Mismatch, Verifier
from data_manager.domain.retention import LetGo
from data_manager.domain.span import Span
from data_manager.ports import Clock, SeriesStore
from data_manager.ports.truth import TruthStore
from data_manager.services.answering.pages import pages
from data_manager.services.keeping.certify import PAGE_ROWS

Status = Literal["agrees", "differs", "let_go"]
"""let_go: rows of it went by retention, and what is left of it gives no cause for complaint."""

CHAIN_MAX: Final = 100_000
_PAGE: Final = 100

Progress = Callable[[int, int, str], None]


class Chain(Struct, frozen=True):
    """The certificates before one, as far back as they go. broken: what is wrong with a link, None when nothing is."""

    links: int
    broken: str | None


class Proof(Struct, frozen=True, kw_only=True):
    """What became of verifying one certificate. columns: fields whose values differ anywhere in the span.

    mismatches: what differs, by key; gone: the same of what went by retention. chain: None where nobody here has it.
    seconds: what reading and hashing took.
    """

    certificate: str
    series: str
    start_ms: int
    end_ms: int
    status: Status
    mismatches: tuple[Mismatch, ...]
    gone: tuple[Mismatch, ...]
    columns: tuple[str, ...]
    rows_certified: int
    rows: int
    chain: Chain | None
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether rows and chain are as they were."""
        return self.status == "agrees" and (self.chain is None or self.chain.broken is None)


async def verify(
    store: SeriesStore,
    truth: TruthStore,
    certificate: Certificate,
    clock: Clock,
    *,
    chained: bool = True,
    progress: Progress | None = None,
    page_rows: int = PAGE_ROWS,
) -> Proof:
    """Read the rows of the certificate's span and hold them against it. Raises Corrupt for rows that cannot be read.

    chained: follow the links to the certificates before it.
    """
    series, span = series_of(certificate), Span(certificate.start_ms, certificate.end_ms)
    began_s = clock.monotonic_s()
    verifier, done = Verifier(certificate), 0
    async for page in pages(store, series, span, rows=page_rows):
        await asyncio.to_thread(verifier.update, page)
        done += len(page)
        if progress:
            progress(done, max(done, certificate.contents.rows), series.id)
    verdict = await asyncio.to_thread(verifier.verdict)
    seconds = clock.monotonic_s() - began_s
    gone = [one for known in await truth.truths([series.id]) for one in known.let_go]
    wrong = tuple(one for one in verdict.mismatches if not _went(one, gone))
    status: Status = "agrees" if not verdict.mismatches else "differs" if wrong else "let_go"
    return Proof(
        certificate=certificate.id,
        series=series.id,
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        status=status,
        mismatches=wrong,
        gone=tuple(one for one in verdict.mismatches if one not in wrong),
        columns=verdict.columns,
        rows_certified=certificate.contents.rows,
        rows=verdict.contents.rows,
        chain=await chain_of(truth, certificate) if chained else None,
        seconds=seconds,
    )


def series_of(certificate: Certificate) -> Series:
    """The series a certificate is of. Raises BadQuery for one that no store of ours can hold."""
    return parse_series(certificate.series, DATASETS, "")


def _went(one: Mismatch, gone: Iterable[LetGo]) -> bool:
    """Whether what went by retention accounts for it; of a block that lost a part of its rows nothing can be told."""
    if one.kind not in ("missing", "block") or one.first_key is None or one.last_key is None:
        return False
    return any(one.first_key <= part.last_key and one.last_key >= part.first_key for part in gone)


async def chain_of(truth: TruthStore, certificate: Certificate) -> Chain:
    """Follow the links back: each must be kept, unaltered, of the same series and older."""
    links, below = 0, certificate
    if id_of(certificate) != certificate.id:
        return Chain(0, f"{_short(certificate.id)} was altered: it is not what its id says")
    while below.previous is not None and links < CHAIN_MAX:
        try:
            link = await truth.certificate(below.previous)
        except Corrupt as error:
            return Chain(links, str(error))
        wrong = _wrong(link, below)
        if link is None or wrong:
            return Chain(links, wrong)
        links, below = links + 1, link
    return Chain(links, None)


def _wrong(link: Certificate | None, above: Certificate) -> str | None:
    if link is None:
        return f"{_short(above.previous or '')}, which {_short(above.id)} follows upon, is not kept here"
    if id_of(link) != link.id or link.id != above.previous:
        return f"{_short(above.previous or '')} was altered: it is not what its id says"
    if link.series != above.series or link.issued_ms >= above.issued_ms:
        return f"{_short(above.id)} cannot follow upon {_short(link.id)}"
    return None


def _short(certificate_id: str) -> str:
    return f"certificate {certificate_id[:12]}"


async def chosen(truth: TruthStore, series: Series | None, span: Span | None) -> list[str]:
    """Ids of the newest certificate of every span that was certified: of one series or all, within span if given.

    Oldest first. Raises NotFound when there is none.
    """
    refs = await truth.certificate_refs(series=None if series is None else series.id)
    inside = [one for one in refs if span is None or (span.start_ms <= one.start_ms and one.end_ms <= span.end_ms)]
    newest = {(one.series, one.start_ms, one.end_ms): one.id for one in inside}
    if not newest:
        of = "" if series is None else f" of {series.id}"
        raise NotFound(f"nothing{of} was ever certified there: data-manager certify, or POST /certificates, does it")
    return list(newest.values())


async def kept(truth: TruthStore, certificate_id: str) -> Certificate:
    """The certificate with that id, or whose id begins so. Raises NotFound, and BadQuery for what is no id."""
    if not (8 <= len(certificate_id) <= 64 and set(certificate_id) <= set("0123456789abcdef")):
        raise BadQuery("certificate", certificate_id[:80], "must be an id: its 64 hexadecimal digits or the first 8")
    found = await truth.certificate(certificate_id)
    if found is None:
        raise NotFound(f"no certificate {certificate_id} is kept here")
    return found


def speed(proofs: Sequence[Proof]) -> float | None:
    """Rows per second over all of them; None when there were none, or it was too quick to tell."""
    seconds = sum(one.seconds for one in proofs)
    return sum(one.rows for one in proofs) / seconds or None if seconds else None
