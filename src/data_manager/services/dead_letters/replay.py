"""A second chance for dead letters: what would become of each now, and onto the bus again, so that the running service
takes it through the one path.

A letter is removed only when the stream has acknowledged its payload and it did not come again meanwhile. What fails
again is a dead letter as before. Publishing twice is harmless: twice is once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

from msgspec import Struct

from data_manager.domain.batch import STREAM, pack
from data_manager.domain.dataset import Dataset
from data_manager.domain.errors import BadQuery, NotFound, Rejected
from data_manager.domain.events import Event, Ignored, Outcome
from data_manager.ports import Clock, KeptDeadLetter, MetaStore

Decode = Callable[[bytes, int], Sequence[Outcome]]
Tell = Callable[[int, int, str], None]

_PAGE: Final = 1_000
_AT_ONCE: Final = 200  # letters whose payloads are in hand at the same time
_ID_LEAST: Final = 4


class Publisher(Protocol):
    """Where letters go."""

    async def publish(self, subject: str, payloads: Sequence[bytes]) -> bool:
        """Send these; True once a stream has acknowledged every one, False where none captures the subject.

        Raises Unavailable when not every one was acknowledged; some may be in the stream then.
        """
        ...


class Trial(Struct, frozen=True):
    """What would become of a payload now. stored: rows by dataset; refused: what is wrong with the others."""

    stored: dict[str, int]
    refused: list[str]
    ignored: list[str]

    @property
    def good(self) -> bool:
        """Whether nothing of it would be refused."""
        return not self.refused


class Tried(Struct, frozen=True):
    """A letter and its trial; None: too little of its payload is kept to say."""

    letter: KeptDeadLetter
    now: Trial | None


class Replayed(Struct, kw_only=True):
    """What a replay did. letters = removed + came_again + unacknowledged + partial + elsewhere, when it got through."""

    letters: int = 0
    published: int = 0  # payloads; letters of one message share it
    removed: int = 0
    came_again: int = 0  # refused by the service before they could be removed, or counted on by another delivery
    unacknowledged: int = 0  # published where no stream keeps them: they stay
    partial: int = 0  # not replayable: their payload is not kept whole
    elsewhere: int = 0  # not replayable: they came on a subject that is not listened to any more


async def select(meta: MetaStore, ids: Sequence[str] = (), reason: str | None = None) -> list[KeptDeadLetter]:
    """These letters, the newest first; all of them without ids and reason. ids: whole ones, or how they begin.

    Raises BadQuery for a beginning that is too short or fits several, NotFound for one that fits none.
    """
    letters: list[KeptDeadLetter] = []
    while True:
        page, total = await meta.dead_letters(limit=_PAGE, offset=len(letters), reason=reason)
        letters += page
        if not page or len(letters) >= total:
            break
    unique = {letter.id: letter for letter in letters}  # letters that came meanwhile moved the pages
    if not ids:
        return list(unique.values())
    return list({letter.id: letter for one in ids for letter in [_named(one, unique)]}.values())


def _named(begins: str, letters: Mapping[str, KeptDeadLetter]) -> KeptDeadLetter:
    if len(begins) < _ID_LEAST:
        raise BadQuery("id", begins, f"must be the first {_ID_LEAST} digits of an id at least")
    fitting = [letter for letter_id, letter in letters.items() if letter_id.startswith(begins)]
    if not fitting:
        raise NotFound(f"no dead letter has the id {begins}: `data-manager dead-letters` lists them")
    if len(fitting) > 1:
        raise BadQuery("id", begins, f"fits {len(fitting)} dead letters: write more of it")
    return fitting[0]


class Reader:
    """Reads payloads as ingest does, up to the store's door."""

    def __init__(self, decode: Decode, dataset_of: Mapping[type, Dataset], market: str, clock: Clock) -> None:
        self._decode = decode
        self._dataset_of = dataset_of
        self._market = market
        self._clock = clock

    def trial(self, payload: bytes) -> Trial:
        """What would become of it now. The store is not asked, nor the prices that labels are judged by."""
        now_ms = self._clock.now_ms()
        events: dict[Dataset, list[Event]] = {}
        refused: list[str] = []
        ignored: list[str] = []
        for outcome in self._decode(payload, now_ms):
            if isinstance(outcome, Rejected):
                refused.append(str(outcome))
            elif isinstance(outcome, Ignored):
                ignored.append(outcome.reason)
            else:
                events.setdefault(self._dataset_of[type(outcome)], []).append(outcome)
        stored: Counter[str] = Counter()
        for dataset, rows in events.items():
            packed = pack(dataset, self._market, rows, [now_ms] * len(rows), STREAM)
            refused += [str(one.why) for one in packed.refused]
            stored[dataset.name] = len(rows) - len(packed.refused)
        return Trial(dict(+stored), refused, ignored)


async def tried(meta: MetaStore, letters: Sequence[KeptDeadLetter], reader: Reader) -> list[Tried]:
    """Each letter with what would become of it now; nothing is changed."""
    found: list[Tried] = []
    for letter in letters:
        payload = await meta.dead_payload(letter.id) if letter.whole else None
        found.append(Tried(letter, None if payload is None else reader.trial(payload)))
    return found


async def replay(
    meta: MetaStore, letters: Sequence[KeptDeadLetter], publisher: Publisher, subject: str, tell: Tell
) -> Replayed:
    """Publish the payloads, each once, and remove the letters that the stream has; see Replayed.

    subject: what the service listens to, may end in a wildcard. Raises Unavailable when the bus fails on the way: what
    was removed by then is with the stream, the rest is untouched.
    """
    report = Replayed(letters=len(letters))
    sent: set[bytes] = set()
    for some in _slices(letters):
        for target, group in _by_subject(some, subject, report).items():
            await _send(meta, group, publisher, target, report, sent)
        tell(report.letters, len(letters), f"{report.removed:,} removed")
    return report


async def _send(
    meta: MetaStore,
    letters: Sequence[KeptDeadLetter],
    publisher: Publisher,
    subject: str,
    report: Replayed,
    sent: set[bytes],
) -> None:
    payloads: dict[bytes, bytes] = {}
    whole: dict[str, int] = {}
    for letter in letters:
        payload = await meta.dead_payload(letter.id)
        if payload is None:  # somebody removed it, or it was kept in part all along
            report.partial += 1
            continue
        whole[letter.id] = letter.count
        payloads[hashlib.sha256(payload).digest()] = payload
    fresh = [payload for digest, payload in payloads.items() if digest not in sent]
    if not await publisher.publish(subject, fresh):
        report.unacknowledged += len(whole)
    else:
        sent.update(payloads)
        removed = await meta.forget_dead(whole)
        report.removed += removed
        report.came_again += len(whole) - removed
    report.published += len(fresh)


def _by_subject(letters: Iterable[KeptDeadLetter], listened: str, report: Replayed) -> dict[str, list[KeptDeadLetter]]:
    """The replayable ones by the subject to send them to: their own, as long as it is listened to."""
    groups: dict[str, list[KeptDeadLetter]] = {}
    for letter in letters:
        target = letter.subject if covers(listened, letter.subject) else listened
        if not letter.whole:
            report.partial += 1
        elif target.endswith((".*", ".>")):
            report.elsewhere += 1
        else:
            groups.setdefault(target, []).append(letter)
    return groups


def covers(pattern: str, subject: str) -> bool:
    """Whether a subscription to pattern (wildcards stand at its end only) receives subject."""
    stem, _, last = pattern.rpartition(".")
    if last not in ("*", ">"):
        return pattern == subject
    rest = subject.removeprefix(f"{stem}.")
    return rest not in ("", subject) and (last == ">" or "." not in rest)


def _slices(letters: Sequence[KeptDeadLetter]) -> Iterator[list[KeptDeadLetter]]:
    rest = iter(letters)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
