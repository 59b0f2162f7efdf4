"""What can go wrong, sorted by what the catcher should do.

DataManagerError
├── Rejected       this input is wrong and stays wrong       dead letter with the reason, ack, count
│   ├── Undecodable   not the venue's language at all
│   ├── UnknownKind   well formed, but nothing we have a dataset for
│   ├── Invalid       one field breaks one rule
│   │   └── Mislabelled   a book that is not of the symbol its label names
│   └── Damaged       good in itself, but what is held where it belongs is damaged
├── Unavailable    the other side is away                    retry by the one policy, then let it rise   503
│   ├── Throttled
│   └── Outdated      it is laid out for another release    let a process of that release take over
├── Conflict       someone was first                         give way                                    409
│   └── StoreLocked
├── Corrupt        what we read is not what we wrote         quarantine the span, alert                  500
│   └── DamagedRows   and which rows those were
├── BadQuery       the caller's question cannot be answered  say what would be valid                     422
├── NotFound       the caller names what does not exist                                                  404
└── BadSetting     the operator's                            name the variable and the fix, exit
"""

from collections.abc import Mapping


class DataManagerError(Exception):
    """Root of every error this project raises on purpose."""


class Rejected(DataManagerError):
    """Input that is wrong and will not become right: it belongs to the dead letters.

    reason is a short stable word for counting, field the offending field's path in the venue's words ("data.p"),
    None when no single field is to blame. stream and series: what the row would have been, by the metrics' label and by
    id, where that much of it can be read.
    """

    reason = "rejected"
    stream: str | None = None
    series: str | None = None

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Undecodable(Rejected):
    """Bytes that are not JSON, or JSON too large or too deep to be a market message."""

    reason = "undecodable"


class UnknownKind(Rejected):
    """A well-formed market message of a kind no dataset takes."""

    reason = "unknown_kind"


class Invalid(Rejected):
    """One field breaks one rule. The message reads: field, value, rule."""

    reason = "invalid"

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field} {_shown(value)}: {rule}", field=field)
        self.value = value
        self.rule = rule


class Mislabelled(Invalid):
    """A book without a symbol of its own whose prices are not those of the symbol that its label names."""

    reason = "mislabelled"


class Damaged(Rejected):
    """An event that cannot be kept because what is held of its series is damaged; it can be replayed afterwards."""

    reason = "damaged"


class Unavailable(DataManagerError):
    """The other side is away or too slow; trying again later may work."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Throttled(Unavailable):
    """The other side asked us to wait retry_after_s seconds."""


class Outdated(Unavailable):
    """The other side is laid out for another release of this program: nothing of ours is written there."""


class Conflict(DataManagerError):
    """Someone else holds what we wanted; give way."""


class StoreLocked(Conflict):
    """Another process is the writer of this data directory."""


class Corrupt(DataManagerError):
    """Stored bytes do not match their checksum or layout. Never serve them as good.

    evidence: what was read and what was promised, where that is worth keeping.
    """

    def __init__(self, message: str, *, evidence: Mapping[str, str | int | None] | None = None) -> None:
        super().__init__(message)
        self.evidence = dict(evidence or {})


class DamagedRows(Corrupt):
    """A stretch of a series cannot be read: times in [start_ms, end_ms), keys from first_key to last_key."""

    def __init__(self, message: str, *, start_ms: int, end_ms: int, first_key: int, last_key: int) -> None:
        super().__init__(message)
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.first_key = first_key
        self.last_key = last_key


class BadQuery(DataManagerError):
    """A request whose field breaks a rule; the message says what would be valid. value: None where there is none."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field}: {rule}" if value is None else f"{field} {_shown(value)}: {rule}")
        self.field = field
        self.value = value
        self.rule = rule


class NotFound(DataManagerError):
    """The named resource does not exist (absent data of a known resource is not an error)."""


class BadSetting(DataManagerError):
    """An environment variable holds something unusable; the message names it and what would be valid."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        super().__init__(f"{name}={value!r}: {rule}")
        self.name = name


def _shown(value: object) -> str:
    """The value as a message shows it, cut where it is long."""
    shown = repr(value)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
