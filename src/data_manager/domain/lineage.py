"""Lineage: what was done to rows, and where they came from or went to. One record per step and range."""

import hashlib

from msgspec import Struct

Details = dict[str, str | int | bool | None]


class LineageRecord(Struct, frozen=True, kw_only=True):
    """One step. rows_in: rows it began with; rows_out: rows there were after it, None while it is under way.

    source: id of the series the rows came from, None where the step is about the series itself.
    """

    id: str
    series: str
    transformation: str  # retention, …
    start_ms: int
    end_ms: int
    source: str | None = None
    rows_in: int | None
    rows_out: int | None
    details: Details
    at_ms: int


def lineage_id(*parts: str | int) -> str:
    """64 hexadecimal digits: the same for the same step told again."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "backslashreplace")).hexdigest()
