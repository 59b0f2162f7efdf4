"""Certificates, proofs and retention as the API and the command line tell them."""

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from data_manager.domain.lineage import LineageRecord
from data_manager.domain.proof.certificate import Certificate
from data_manager.services.keeping.retain import Retained
from data_manager.services.keeping.verify import Proof, speed


def certificate_facts(one: Certificate) -> dict[str, Any]:
    """A certificate without the sums of its blocks, for lists and answers to people."""
    facts: dict[str, Any] = structs.asdict(one)
    contents = structs.asdict(one.contents)
    contents["blocks"] = len(one.contents.blocks)
    return {**facts, "contents": contents}


def proof_facts(one: Proof) -> dict[str, Any]:
    """What became of verifying one certificate."""
    rate = speed([one])
    return {"holds": one.holds, **structs.asdict(one), "rows_per_second": None if rate is None else round(rate)}


def proofs_facts(proofs: Iterable[Proof]) -> dict[str, Any]:
    """The same of several."""
    every = list(proofs)
    rate = speed(every)
    return {
        "verified": sum(one.holds for one in every),
        "differ": sum(one.status == "differs" for one in every),
        "let_go": sum(one.status == "let_go" for one in every),
        "rows": sum(one.rows for one in every),
        "rows_per_second": None if rate is None else round(rate),
        "proofs": [proof_facts(one) for one in every],
    }


def retained_facts(done: Retained) -> dict[str, Any]:
    """What a run of retention came to."""
    return structs.asdict(done)


def let_go_facts(record: LineageRecord) -> dict[str, Any]:
    """What went once."""
    return {
        "series": record.series,
        "start_ms": record.start_ms,
        "end_ms": record.end_ms,
        "rows": record.rows_in,
        "at_ms": record.at_ms,
        "done": record.rows_out is not None,
        **record.details,
    }
