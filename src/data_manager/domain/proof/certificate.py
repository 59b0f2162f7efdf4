"""Certificates: what a series held over a span, such that any change of it can be proven and named.

The content hash is SHA-256 over the columns of the rows in key order, in the form of canonical.py: it does not depend
on how the rows are cut into batches, blocks or chunks, nor on the store. Beside it stand, per block of the key range,
the number of rows and three sums over their 64-bit row hashes h, x being the key's place in its block, modulo 2**64:

    sum h        sum h·x        sum h·x²

One row changed, missing or added leaves differences d, d·x, d·x²: a division tells x, and so the row, although the
certificate holds no row. Several in one block leave differences that fit no single row: then the block is named.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct, json
from msgspec.structs import replace
from numpy.typing import NDArray

from data_manager.domain.batch import Batch, joined
from data_manager.domain.errors import Corrupt
from data_manager.domain.proof.canonical import FORM, row_hashes, streams
from data_manager.domain.span import Span
from data_manager.domain.values.columns import Ints, Texts

ROWS_PER_BLOCK: Final = 4_096
FINE_BLOCKS: Final = 512
_BLOCK_KEYS_MAX: Final = 2**32  # places in a block must be small against 64 bits, see locate.py

Keys = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Watch = Callable[[Keys, Hashes], None]


class Block(Struct, frozen=True, array_like=True):
    """The rows with keys in [number * block_keys, (number + 1) * block_keys)."""

    number: int
    rows: int
    sum_h: int
    sum_hx: int
    sum_hxx: int


class Contents(Struct, frozen=True, kw_only=True):
    """What some rows are, without the rows. columns: SHA-256 by field; sources: rows by origin."""

    rows: int
    first_key: int | None
    last_key: int | None
    content: str
    columns: dict[str, str]
    block_keys: int
    blocks: tuple[Block, ...]
    sources: dict[str, int]
    form: int = FORM


class KnownHole(Struct, frozen=True):
    """A hole that was known when the certificate was issued, and the state it was in."""

    start_ms: int
    end_ms: int
    state: str
    missing: int | None


class Certificate(Struct, frozen=True, kw_only=True):
    """What a series held over [start_ms, end_ms) at issued_ms, and what was found out about it.

    checks: names of the checks that were made and passed; offences: of those that were not, and how many rows each
    blames. condition: milliseconds of the span by condition, as the audits had it; together they are the span.
    holes: the first KNOWN_HOLES_MAX of the holes_total that were known. previous: id of the series' certificate before
    this one. id: SHA-256 over everything else in it, so that the certificate cannot be changed either.
    """

    id: str
    series: str
    start_ms: int
    end_ms: int
    contents: Contents
    checks: tuple[str, ...]
    offences: dict[str, int]
    condition: dict[str, int]
    holes: tuple[KnownHole, ...]
    holes_total: int
    rule_version: int
    previous: str | None
    issued_ms: int


KNOWN_HOLES_MAX: Final = 10_000


class Ref(Struct, frozen=True, kw_only=True):
    """A certificate without what it says: whose it is, of which span, and when it was issued."""

    id: str
    series: str
    start_ms: int
    end_ms: int
    issued_ms: int
    previous: str | None


def issue(
    contents: Contents,
    *,
    series: str,
    span: Span,
    checks: Sequence[str],
    offences: Mapping[str, int],
    condition: Mapping[str, int],
    holes: Sequence[KnownHole],
    rule_version: int,
    previous: str | None,
    issued_ms: int,
) -> Certificate:
    """The certificate of these contents; orders of checks and holes do not matter."""
    ordered = sorted(holes, key=lambda hole: (hole.start_ms, hole.end_ms, hole.state))
    blank = Certificate(
        id="",
        series=series,
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        contents=contents,
        checks=tuple(sorted(checks)),
        offences=dict(offences),
        condition=dict(condition),
        holes=tuple(ordered[:KNOWN_HOLES_MAX]),
        holes_total=len(ordered),
        rule_version=rule_version,
        previous=previous,
        issued_ms=issued_ms,
    )
    return replace(blank, id=id_of(blank))


def id_of(certificate: Certificate) -> str:
    """The id a certificate must have: SHA-256 of its JSON with an empty id, members in order of name, no blanks."""
    return hashlib.sha256(json.encode(replace(certificate, id=""), order="sorted")).hexdigest()


def block_keys(rows: int, first_key: int, last_key: int, *, fine: bool = False) -> int:
    """How many keys a block should span for about ROWS_PER_BLOCK rows: a power of two, so that few sizes are in use.

    fine: for fewer rows, as long as there are no more than some FINE_BLOCKS of them.
    """
    per_block = max(1, min(ROWS_PER_BLOCK, rows // FINE_BLOCKS)) if fine else ROWS_PER_BLOCK
    wanted = max(1, (last_key - first_key + 1) * per_block // max(rows, 1))
    return min(1 << max(0, wanted.bit_length() - 1), _BLOCK_KEYS_MAX)


class Fingerprint:
    """Takes the rows of one series in key order, in batches of any size, and tells their contents.

    watch is told the key and the hash of every row, in order. newest_received_ms: of the rows taken, where they say.
    """

    def __init__(self, block_keys: int, watch: Watch | None = None) -> None:
        assert 0 < block_keys <= _BLOCK_KEYS_MAX
        self._block_keys = block_keys
        self._watch = watch
        self._hashers: dict[str, dict[str, Any]] = {}
        self._blocks: list[list[int]] = []
        self._sources: Counter[str] = Counter()
        self.newest_received_ms: int | None = None
        self._rows = 0
        self._first: int | None = None
        self._last: int | None = None
        self._held: Batch | None = None  # rows of the newest key: more of them may follow

    def update(self, batch: Batch) -> None:
        """Take the next rows, with all columns. Raises Corrupt when keys go back: then it is no certified series."""
        if not len(batch):
            return
        keys = batch.key
        last = self._last if self._held is None else int(self._held.key[-1])
        if (last is not None and keys[0] < last) or bool((keys[1:] < keys[:-1]).any()):
            raise Corrupt(
                f"rows of {batch.series[int(batch.codes[0])].id} are not in the order of {batch.dataset.key[0]}"
            )
        start = 0
        if self._held is not None:
            if keys[0] == self._held.key[-1]:
                start = int(np.searchsorted(keys, keys[0], side="right"))
                self._held = joined([self._held, batch.take(slice(0, start))])
            if start == len(batch):
                return
            self._take(self._held)
        end = int(np.searchsorted(keys, keys[-1]))
        if end > start:
            self._take(batch.take(slice(start, end)))
        self._held = batch.take(slice(max(start, end), len(batch)))

    def finish(self) -> Contents:
        """The contents of all rows taken."""
        if self._held is not None:
            self._take(self._held)
            self._held = None
        columns = {name: _folded(hashers) for name, hashers in self._hashers.items()}
        return Contents(
            rows=self._rows,
            first_key=self._first,
            last_key=self._last,
            content=hashlib.sha256(json.encode([FORM, self._rows, columns])).hexdigest(),
            columns=columns,
            block_keys=self._block_keys,
            blocks=tuple(Block(*one) for one in self._blocks),
            sources=dict(sorted(self._sources.items())),
        )

    def _take(self, rows: Batch) -> None:
        """Rows whose keys nobody else has. Rows that share the first part of their key are ordered by their hashes."""
        keys = rows.key
        fields = streams(rows)
        hashes = row_hashes(len(rows), fields)
        if bool((keys[1:] == keys[:-1]).any()):
            order = np.lexsort((hashes, keys))
            if bool((order[1:] < order[:-1]).any()):
                rows, hashes = rows.take(order), hashes[order]
                fields = streams(rows)
        for name, parts in fields.items():
            hashers = self._hashers.setdefault(name, {part: hashlib.sha256() for part in parts})
            for part, values in parts.items():
                hashers[part].update(np.ascontiguousarray(values))
        self._add_blocks(keys, hashes)
        self._sources += _origins(rows)
        received = rows.columns.get("received_ms")
        if isinstance(received, Ints):
            self.newest_received_ms = max(self.newest_received_ms or 0, int(received.values.max()))
        self._rows += len(rows)
        self._first = int(keys[0]) if self._first is None else self._first
        self._last = int(keys[-1])
        if self._watch:
            self._watch(keys, hashes)

    def _add_blocks(self, keys: Keys, hashes: Hashes) -> None:
        numbers = keys // self._block_keys
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
        rows = np.diff(starts, append=len(keys)).tolist()
        sums = [np.add.reduceat(part, starts).tolist() for part in moments(keys, hashes, self._block_keys)]
        for block in zip(numbers[starts].tolist(), rows, *sums, strict=True):
            last = self._blocks[-1] if self._blocks else None
            if last and last[0] == block[0]:
                last[1:] = [
                    block[1] + last[1],
                    *((a + b) % 2**64 for a, b in zip(last[2:], block[2:], strict=True)),
                ]
            else:
                self._blocks.append(list(block))


def moments(keys: Keys, hashes: Hashes, block_keys: int) -> tuple[Hashes, Hashes, Hashes]:
    """h, h·x and h·x² of every row, modulo 2**64."""
    places = (keys % block_keys).view(np.uint64)
    once = hashes * places
    return hashes, once, once * places


def _folded(hashers: Mapping[str, Any]) -> str:
    return hashlib.sha256(b"".join(hasher.digest() for hasher in hashers.values())).hexdigest()


def _origins(rows: Batch) -> Counter[str]:
    column = rows.columns.get("origin")
    if not isinstance(column, Texts):
        return Counter()
    counts = np.bincount(column.codes, minlength=len(column.words)).tolist()
    return Counter({word: count for word, count in zip(column.words, counts, strict=True) if count})
