"""What one audit changes in the hole ledger of a series.

The audit's word is the truth for every instant of the span it judged: what it calls a hole is missing, what it does not
is there. So each entry is cut at that span and at the holes found, and the pieces live on:

    before     ░░░░open░░░░░░░                    ▒▒healed▒▒
    audited         |──────────────────────────────────────|
    found                ■■■■■         ■■■■           ■■■■
    after      ░░░░░▒▒▒▒▒░░░░░         ░░░░       ▒▒▒▒░░░░▒▒
               kept healed kept        new            reopened

A hole found grows, shrinks, joins and splits the SUSPECTED and OPEN entries it touches. Entries in other states belong
to a job or stand on a proof: they are cut where rows appeared, never made larger nor joined with others.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.condition.sweep import Claim
from data_manager.domain.holes.continuity import Hole
from data_manager.domain.holes.ledger import (
    HoleState,
    LedgerEntry,
    Step,
    child_id,
    first_id,
    grown,
    moved,
    require_disjoint,
)
from data_manager.domain.span import Span, difference, intersection

_BY = "audit"
_JOINABLE = (HoleState.SUSPECTED, HoleState.OPEN)


class ChangeKind(Enum):
    """What became of an entry."""

    NEW = "new"
    UNCHANGED = "unchanged"
    CONFIRMED = "confirmed"  # suspected, and now open
    DESCRIBED = "described"  # how many rows are missing, or which ones stand next to it, is known now
    GROWN = "grown"
    TRIMMED = "trimmed"
    SPLIT = "split"  # a piece of an entry that lives on in another piece
    MERGED = "merged"
    HEALED = "healed"
    REOPENED = "reopened"


class Change(Struct, frozen=True):
    """An entry as it stands after the audit. absorbed: ids of entries that are no more, their instants are in this one.

    UNCHANGED may differ in seen_ms only: it needs no write.
    """

    kind: ChangeKind
    entry: LedgerEntry
    absorbed: tuple[str, ...] = ()


def reconciled(
    entries: Sequence[LedgerEntry],
    audited: Span,
    found: Iterable[Hole],
    *,
    series: str,
    now_ms: int,
    confirm_after_ms: int = 1,
) -> list[Change]:
    """Every entry given, and every new one, as it stands after an audit of the span.

    entries: all of the series that overlap or touch audited, live and healed. audited: what the audit can speak for,
    see coverage.aligned and coverage.judged. A hole is SUSPECTED until an audit sees it confirm_after_ms or more after
    the first one did; 0 opens it at once. The same audit recorded twice changes nothing the second time.
    """
    require_disjoint(entries)
    holes = _disjoint(found, audited)
    groups = _groups(entries, audited, holes)
    cutter = _Cutter(series, now_ms, confirm_after_ms)
    changes = [cutter.group(group) for group in groups]
    spans, line = _Line([group.span for group in groups]), _Line(holes)
    for entry in entries:
        changes += cutter.rest(entry, audited, line.near(entry), spans.near(entry))
    return _healed_joined(cutter.settled(changes, entries, spans), {entry.id for entry in entries})


def described(entry: LedgerEntry) -> tuple[int, int, int | None, int | None, int | None]:
    """What is said of a hole besides its life."""
    return entry.start_ms, entry.end_ms, entry.missing, entry.after, entry.before


def after(entries: Iterable[LedgerEntry], changes: Iterable[Change]) -> list[LedgerEntry]:
    """The ledger once the changes are made, in order of time."""
    held = {entry.id: entry for entry in entries}
    listed = list(changes)
    for change in listed:
        for old in change.absorbed:
            held.pop(old, None)
    held.update((change.entry.id, change.entry) for change in listed)
    return sorted(held.values(), key=lambda entry: entry.start_ms)


# ── Which instants belong together ───────────────────────────────────────────────────────────────────────────────────


class _Group(Struct):
    """One live entry to be: its span, the hole behind it, and the entries it is made of, oldest first."""

    span: Span
    hole: Hole
    members: list[LedgerEntry]


def _disjoint(found: Iterable[Hole], audited: Span) -> list[Hole]:
    """The holes cut to the span, in order, with no instant in two.

    Holes in ids may share the millisecond of the row between them: the later one begins after it, and is joined with
    the earlier one when nothing of it is left.
    """
    holes: list[Hole] = []
    for hole in sorted(found, key=lambda hole: (hole.start_ms, hole.end_ms)):
        start, end = max(hole.start_ms, audited.start_ms), min(hole.end_ms, audited.end_ms)
        if holes:
            start = max(start, holes[-1].end_ms)
        if start < end:
            holes.append(Hole(start, end, hole.missing, hole.after, hole.before, hole.kind))
        elif holes and hole.start_ms < audited.end_ms:
            last = holes[-1]
            missing = None if last.missing is None or hole.missing is None else last.missing + hole.missing
            holes[-1] = Hole(last.start_ms, last.end_ms, missing, last.after, hole.before, last.kind)
    return holes


def _groups(entries: Sequence[LedgerEntry], audited: Span, holes: Sequence[Hole]) -> list[_Group]:
    ordered = sorted(entries, key=lambda one: one.start_ms)
    walls = _Line([entry.span for entry in ordered if entry.live and entry.state not in _JOINABLE])
    joinable = _Line([entry for entry in ordered if entry.state in _JOINABLE])
    others = _Line([entry for entry in ordered if not entry.live or entry.state in _JOINABLE])
    groups = []
    for hole in holes:
        for part in difference([Span(hole.start_ms, hole.end_ms)], walls.near(hole)):
            span = _stretched(part, audited, joinable)
            members = sorted(
                others.near(span), key=lambda one: (not one.live, one.found_ms, one.id != one.root, one.start_ms)
            )
            groups.append(_Group(span, hole, members))
    return groups


def _stretched(part: Span, audited: Span, joinable: "_Line[LedgerEntry]") -> Span:
    """A part that reaches an edge of what was audited goes on in the entry that lies across or at that edge."""
    start, end = part.start_ms, part.end_ms
    if start == audited.start_ms:
        start = min([start, *(one.start_ms for one in joinable.near(Span(start - 1, start)))])
    if end == audited.end_ms:
        end = max([end, *(one.end_ms for one in joinable.near(Span(end, end + 1)))])
    return Span(start, end)


T = TypeVar("T", bound=Claim)


class _Line(Generic[T]):
    """Disjoint stretches in order of time, found quickly."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items = items
        self._starts = [item.start_ms for item in items]
        self._ends = [item.end_ms for item in items]

    def near(self, other: Claim) -> Sequence[T]:
        """Those that share an instant with other."""
        return self._items[slice(*self.reach(other))]

    def reach(self, other: Claim) -> tuple[int, int]:
        """Positions of those: from, and up to."""
        return bisect_right(self._ends, other.start_ms), bisect_left(self._starts, other.end_ms)


# ── What becomes of the pieces ───────────────────────────────────────────────────────────────────────────────────────


class _Cutter:
    """Gives pieces their identity: an entry lives on in one piece, the others are its children."""

    def __init__(self, series: str, now_ms: int, confirm_after_ms: int) -> None:
        self._series = series
        self._now_ms = now_ms
        self._confirm_after_ms = confirm_after_ms
        self._used: set[str] = set()
        self._children: dict[str, int] = {}

    def group(self, group: _Group) -> Change:
        """The live entry of a hole found."""
        members = group.members
        if not members:
            return Change(ChangeKind.NEW, self._seen(self._born(group), joins_open=False))
        old = next((one for one in members if one.live and one.id not in self._used), members[0])
        piece, cut = self._piece(old, group.span)
        entry = _described(piece, old, group)
        if not old.live:
            entry = moved(entry, HoleState.OPEN, at_ms=self._now_ms, by=_BY, why="the rows are missing again")
            return Change(ChangeKind.REOPENED, replace(entry, seen_ms=self._now_ms, attempts=0))
        entry = self._seen(entry, joins_open=any(one.state is HoleState.OPEN for one in members))
        kind = _kind(old, group, cut)
        if kind is ChangeKind.UNCHANGED:
            if entry.state is not old.state:
                return Change(ChangeKind.CONFIRMED, entry)
            return Change(kind if described(entry) == described(old) else ChangeKind.DESCRIBED, entry)
        return Change(kind, self._noted(entry, old, kind))

    def rest(self, entry: LedgerEntry, audited: Span, holes: Sequence[Hole], groups: Sequence[Span]) -> list[Change]:
        """What of an entry no group took: mended where the audit found rows, else as it was."""
        left = difference([entry.span], groups)
        missing = [Span(hole.start_ms, hole.end_ms) for hole in holes]
        mended = difference(intersection(left, [audited]), missing) if entry.live else []
        changes = []
        for span in difference(left, mended):
            piece, cut = self._piece(entry, span)
            if piece.live and span.start_ms < audited.end_ms and audited.start_ms < span.end_ms:
                piece = replace(piece, seen_ms=self._now_ms)
            whole = span == entry.span
            kind = ChangeKind.UNCHANGED if whole else ChangeKind.SPLIT if cut else ChangeKind.TRIMMED
            changes.append(Change(kind, piece if whole else self._noted(piece, entry, kind)))
        for span in mended:
            piece, _ = self._piece(entry, span)
            why = "an audit found the rows"
            changes.append(
                Change(ChangeKind.HEALED, moved(piece, HoleState.HEALED, at_ms=self._now_ms, by=_BY, why=why))
            )
        return changes

    def settled(self, changes: Sequence[Change], entries: Iterable[LedgerEntry], groups: _Line[Span]) -> list[Change]:
        """The changes with each entry's number of children, and with the entries that groups took whole.

        changes: those of the groups first, in their order.
        """
        counted = [
            Change(one.kind, replace(one.entry, children=self._children.get(one.entry.id, one.entry.children)))
            for one in changes
        ]
        standing = {change.entry.id for change in changes}
        for old in entries:
            if old.id not in standing:
                place, _ = groups.reach(old)
                heir = counted[place]
                counted[place] = Change(heir.kind, heir.entry, (*heir.absorbed, old.id))
        return counted

    def _born(self, group: _Group) -> LedgerEntry:
        hole, span = group.hole, group.span
        exact = (hole.start_ms, hole.end_ms) == (span.start_ms, span.end_ms)
        identity = first_id(self._series, hole.kind, span.start_ms, self._now_ms)
        return LedgerEntry(
            id=identity,
            series=self._series,
            kind=hole.kind,
            start_ms=span.start_ms,
            end_ms=span.end_ms,
            missing=hole.missing if exact else None,
            after=hole.after if exact else None,
            before=hole.before if exact else None,
            state=HoleState.SUSPECTED,
            found_ms=self._now_ms,
            seen_ms=self._now_ms,
            root=identity,
            history=(Step(self._now_ms, HoleState.SUSPECTED, _BY, "found"),),
        )

    def _piece(self, entry: LedgerEntry, span: Span) -> tuple[LedgerEntry, bool]:
        """The entry cut to span, and whether it is a child (the entry itself lives on elsewhere)."""
        cut = entry.id in self._used
        identity = entry.id
        if cut:
            number = self._children.get(entry.id, entry.children) + 1
            self._children[entry.id] = number
            identity = child_id(entry, number)
        self._used.add(entry.id)
        whole = span == entry.span
        return replace(
            entry,
            id=identity,
            start_ms=span.start_ms,
            end_ms=span.end_ms,
            missing=entry.missing if whole else None,
            after=entry.after if span.start_ms == entry.start_ms else None,
            before=entry.before if span.end_ms == entry.end_ms else None,
            root=entry.root or entry.id,
            children=0 if cut else entry.children,
        ), cut

    def _seen(self, entry: LedgerEntry, *, joins_open: bool) -> LedgerEntry:
        """Seen by this audit: open once it is confirmed, or as soon as it joins with one that is open."""
        entry = replace(entry, seen_ms=max(entry.seen_ms, self._now_ms))
        confirmed = self._now_ms - entry.found_ms >= self._confirm_after_ms
        if entry.state is HoleState.SUSPECTED and (confirmed or joins_open):
            why = "seen again" if confirmed else "joined with one that is open"
            return moved(entry, HoleState.OPEN, at_ms=self._now_ms, by=_BY, why=why)
        return entry

    def _noted(self, piece: LedgerEntry, entry: LedgerEntry, kind: ChangeKind) -> LedgerEntry:
        """With another extent: what it lacks now was not asked for yet, or some of it came."""
        why = f"{kind.value}, was {entry.start_ms} to {entry.end_ms}"
        return replace(piece, attempts=0, history=grown(piece.history, Step(self._now_ms, piece.state, _BY, why)))


def _described(entry: LedgerEntry, old: LedgerEntry, group: _Group) -> LedgerEntry:
    """With what the hole found says of it, where the two have the same extent. Of a neighbour beyond what was audited
    the hole says nothing: what was known of it stands."""
    hole = group.hole
    if (hole.start_ms, hole.end_ms) == (entry.start_ms, entry.end_ms):
        after, before = (
            new if new is not None else old for new, old in ((hole.after, entry.after), (hole.before, entry.before))
        )
        return replace(entry, missing=hole.missing, after=after, before=before)
    return entry if entry.span == old.span else replace(entry, missing=None)


def _kind(old: LedgerEntry, group: _Group, cut: bool) -> ChangeKind:
    span = group.span
    if sum(one.live for one in group.members) > 1:
        return ChangeKind.MERGED
    if cut:
        return ChangeKind.SPLIT
    if span == old.span:
        return ChangeKind.UNCHANGED
    inside = span.start_ms >= old.start_ms and span.end_ms <= old.end_ms
    return ChangeKind.TRIMMED if inside else ChangeKind.GROWN


def _healed_joined(changes: Iterable[Change], before: set[str]) -> list[Change]:
    """Healed neighbours cut from one hole are one again: a hole mended page by page does not become many entries."""
    whole: list[Change] = []
    for change in sorted(changes, key=lambda change: change.entry.start_ms):
        last = whole[-1].entry if whole else None
        entry = change.entry
        if last is None or last.live or entry.live or (last.end_ms, last.root) != (entry.start_ms, entry.root):
            whole.append(change)
            continue
        keeper, other = sorted((last, entry), key=lambda one: (one.id != one.root, one.id not in before, one.id))
        joined = replace(
            keeper,
            start_ms=last.start_ms,
            end_ms=entry.end_ms,
            missing=None,
            after=last.after,
            before=entry.before,
            healed_ms=max(last.healed_ms or 0, entry.healed_ms or 0),
            history=grown(keeper.history, other.history[-1]),
        )
        absorbed = (*whole[-1].absorbed, *change.absorbed, *({other.id} & before))
        whole[-1] = Change(ChangeKind.HEALED, joined, absorbed)
    return whole
