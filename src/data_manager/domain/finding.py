"""Finding: something we know to be wrong, as a fact with a span.

A finding is immutable. What changes about it (it ended, it was put right, more of it came to light) is a new version
with the same id, and the newest version is the one to believe. Finding the same thing twice makes one finding.
"""

import hashlib
from enum import Enum
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.errors import BadQuery

Severity = Literal["info", "warning", "critical"]
Evidence = dict[str, str | int | None]

_TEXT_MAX = 200  # of one piece of evidence


class FindingKind(Enum):
    """What can be found. The closed vocabulary of the table, the API and the metrics."""

    DROPPED = "dropped"  # a bus without memory let events go before anybody stored them
    DISCARDED = "discarded"  # the durable stream's own bounds discarded messages nobody had read
    SILENCE = "silence"  # nothing came that used to come
    STALE = "stale"  # what comes is late
    PARSE_ERRORS = "parse_errors"  # too much of what comes cannot be kept
    MISLABELLED = "mislabelled"  # books that are not of the symbol they name
    LEADERLESS = "leaderless"  # no replica does the work that one does for all
    OUTDATED = "outdated"  # a process whose databases are laid out for another release by now
    DRIFT = "drift"  # a database's indexes or retention are not what they should be
    HOLE = "hole"  # rows that must exist are not held; the ledger has its life, and its id is that of the entry
    FLAWED = "flawed"  # rows that break a check
    CORRUPT = "corrupt"  # what is held cannot be read
    UNAUDITED = "unaudited"  # an audit could not be done
    SHED = "shed"  # let go by ourselves, because the store was about to be full
    DIFFERS = "differs"  # what is held is not what a source says, or two sources do not say the same
    ABANDONED = "abandoned"  # a backfill that somebody asked for failed for good


def kind_named(word: str) -> FindingKind:
    """The kind of that word. Raises BadQuery naming those there are."""
    try:
        return FindingKind(word)
    except ValueError:
        known = " ".join(kind.value for kind in FindingKind)
        raise BadQuery("kind", word[:64], f"must be one of {known}") from None


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with one series, with one stream (event type), or with all we take (both None).

    What only grows or ends is told without version: who knows more is believed. What an audit tells may shrink, or be
    there again after it was over: there the higher version is believed, whatever it says.

    The span is half open; end_ms is None while it lasts. Its instants are our clock's, but for drops of a known series:
    these are in the time of the dataset (Dataset.time), so that the same span can be asked of a source.
    """

    id: str
    kind: FindingKind
    series: str | None
    stream: str | None  # the metrics' label event_type
    severity: Severity
    start_ms: int
    end_ms: int | None
    evidence: Evidence
    found_ms: int
    resolved_ms: int | None = None  # when it was put right or passed; None: open
    version: int | None = None  # of what was known of the series when it was told

    def __post_init__(self) -> None:
        assert self.end_ms is None or self.end_ms > self.start_ms, "a span holds an instant"

    @property
    def open(self) -> bool:
        """Whether it was not resolved yet."""
        return self.resolved_ms is None

    def resolved(self, now_ms: int, end_ms: int) -> "Finding":
        """The version of it that is over: it lasted until end_ms, unless its end was known before."""
        known = self.end_ms if self.end_ms is not None else max(end_ms, self.start_ms + 1)
        return replace(self, end_ms=known, resolved_ms=now_ms)


def facts(finding: Finding) -> dict[str, str | int | Evidence | None]:
    """A finding as it stands in answers: the version is between us and the store."""
    told = {name: getattr(finding, name) for name in Finding.__struct_fields__ if name != "version"}
    return {**told, "kind": finding.kind.value}


def found(
    kind: FindingKind,
    *,
    series: str | None = None,
    stream: str | None = None,
    severity: Severity,
    start_ms: int,
    end_ms: int | None = None,
    evidence: Evidence,
    found_ms: int,
) -> Finding:
    """A finding, open. Its id follows from kind, series, stream and start; long texts of the evidence are cut."""
    return Finding(
        id=finding_id(kind, series, stream, start_ms),
        kind=kind,
        series=series,
        stream=stream,
        severity=severity,
        start_ms=start_ms,
        end_ms=end_ms,
        evidence={name: _cut(value) for name, value in evidence.items()},
        found_ms=found_ms,
    )


def finding_id(kind: FindingKind, series: str | None, stream: str | None, start_ms: int) -> str:
    """32 hexadecimal digits: the same for the same thing found again."""
    named = "\0".join((kind.value, series or "", stream or "", str(start_ms)))
    return hashlib.sha256(named.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _cut(value: str | int | None) -> str | int | None:
    if not isinstance(value, str):
        return value
    clean = value.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text
    return clean if len(clean) <= _TEXT_MAX else f"{clean[: _TEXT_MAX - 1]}…"
