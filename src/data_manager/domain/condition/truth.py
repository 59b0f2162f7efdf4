"""What the audits know of one series, as it is kept: coverage, holes, flaws, and how far they came."""

from msgspec import Struct

from data_manager.domain.condition.coverage import Audited
from data_manager.domain.condition.partition import Flaw
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.retention import LetGo


class Mark(Struct, frozen=True, kw_only=True):
    """How far the audits of a series came, and where the next one goes on.

    It reads rows with anchor_key and above and judges instants from from_ms on; None: it begins at the first row.
    rows_before: what the extent counted, less the rows read from anchor_key on. When that differs at the next audit,
    rows came or went further back, and all has to be looked at again.
    """

    looked_ms: int  # when the last audit looked
    swept_ms: int  # when the last one that looked at everything began
    until_ms: int | None = None  # what lies before it was judged
    from_ms: int | None = None
    anchor_key: int | None = None
    rows_before: int = 0
    crossed_ms: int | None = None  # candles that open before it were judged by other rows of the same facts


class SeriesTruth(Struct, frozen=True, kw_only=True):
    """All of one series. version: one more at each change, 0 when nothing was ever entered.

    Coverage and holes are disjoint and in order of time; holes are live and healed ones. let_go: rows that were held
    and went by retention; in order of time and disjoint. unreadable: why nothing of it could be read; then nothing is
    known of this series, and all of it is to be audited again.
    """

    series: str
    version: int = 0
    mark: Mark | None = None
    coverage: tuple[Audited, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    let_go: tuple[LetGo, ...] = ()
    holes: tuple[LedgerEntry, ...] = ()
    unreadable: str | None = None


class TruthChange(Struct, frozen=True, kw_only=True):
    """What an audit, or retention, changes. version: the one it started from; if another came first nothing is entered.

    entries: entries of the ledger that are new or differ; absorbed: ids of entries that are no more. afresh: all other
    entries are forgotten, for they could not be read.
    """

    series: str
    version: int
    mark: Mark
    coverage: tuple[Audited, ...]
    flaws: tuple[Flaw, ...] = ()
    let_go: tuple[LetGo, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    absorbed: tuple[str, ...] = ()
    afresh: bool = False
