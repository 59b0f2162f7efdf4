"""Verifying a certificate: does a series still hold what it held, and if not, which rows are others now?"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import Batch
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.proof.canonical import FORM
from data_manager.domain.proof.certificate import (
    Block,
    Certificate,
    Contents,
    Fingerprint,
    Hashes,
    Keys,
    id_of,
    moments,
)

_MASK: Final = 2**64 - 1
_FEW: Final = 16  # ranges one after the other that are told one by one

Kind = Literal["changed", "missing", "doubled", "unexpected", "block", "disorder", "certificate"]


class Mismatch(Struct, frozen=True):
    """Rows that are not what the certificate says. first_key to last_key, both inclusive.

    changed: other values; missing: not there; doubled: there twice; unexpected: not there at issue; block: several
    rows of this range, which cannot be told apart; disorder: rows beyond first_key were not in the order of their keys
    and nothing more can be said; certificate: it is the certificate that was altered. rows: how many at least.
    """

    kind: Kind
    first_key: int | None
    last_key: int | None
    rows: int


class Verdict(Struct, frozen=True):
    """mismatches: empty when series and certificate agree. columns: the fields whose values differ anywhere."""

    mismatches: tuple[Mismatch, ...]
    columns: tuple[str, ...]
    contents: Contents

    @property
    def agrees(self) -> bool:
        """Whether the series still holds what it held."""
        return not self.mismatches


class Verifier:
    """Takes the rows the series now holds in the certificate's span, in key order, then gives the verdict.

    Keeps no more than the rows of blocks that differ. Raises BadQuery for a certificate of another form.
    """

    def __init__(self, certificate: Certificate) -> None:
        if certificate.contents.form != FORM:
            raise BadQuery("certificate", certificate.id, f"is of form {certificate.contents.form}, we read {FORM}")
        self._certificate = certificate
        self._certified = {block.number: block for block in certificate.contents.blocks}
        self._keys_per_block = certificate.contents.block_keys
        self._fingerprint = Fingerprint(self._keys_per_block, self._watch)
        self._waiting: list[tuple[Keys, Hashes]] = []  # rows of the newest block
        self._found: list[Mismatch] = []
        self._seen: set[int] = set()
        self._disordered = False

    def update(self, batch: Batch) -> None:
        """The next rows, with all columns. Disorder is part of the verdict; what follows it is not looked at."""
        if self._disordered:
            return
        try:
            self._fingerprint.update(batch)
        except Corrupt:
            self._disordered = True

    def verdict(self) -> Verdict:
        """What differs, by key."""
        contents = self._fingerprint.finish()
        self._close_block()
        certified = self._certificate.contents
        if self._disordered:
            self._found.append(Mismatch("disorder", contents.last_key, None, 1))
        else:
            lost = (block for number, block in self._certified.items() if number not in self._seen)
            self._found += map(self._lost, lost)
        if id_of(self._certificate) != self._certificate.id:
            self._found.append(Mismatch("certificate", None, None, 1))
        columns = [name for name, digest in certified.columns.items() if contents.columns.get(name) != digest]
        if contents.content != certified.content and not self._found:
            self._found.append(Mismatch("block", certified.first_key, certified.last_key, 1))
        found = sorted(self._found, key=lambda one: (one.first_key is not None, one.first_key or 0, one.kind))
        return Verdict(tuple(_together(found)), tuple(columns), contents)

    def _watch(self, keys: Keys, hashes: Hashes) -> None:
        """Rows come in order: when a new block begins the one before it is complete."""
        numbers = keys // self._keys_per_block
        if self._waiting and numbers[0] != int(self._waiting[-1][0][-1]) // self._keys_per_block:
            self._close_block()
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
            self._waiting.append((keys[start:end], hashes[start:end]))
            if end < len(keys):
                self._close_block()

    def _close_block(self) -> None:
        """Compare the block that is complete, and find out what differs."""
        if not self._waiting:
            return
        keys = np.concatenate([keys for keys, _ in self._waiting])
        hashes = np.concatenate([hashes for _, hashes in self._waiting])
        self._waiting = []
        number = int(keys[0]) // self._keys_per_block
        self._seen.add(number)
        certified = self._certified.get(number)
        if certified is None:
            self._found.append(Mismatch("unexpected", int(keys[0]), int(keys[-1]), len(keys)))
            return
        doubled, kept = _without_doubles(keys, hashes)
        now = _sums(keys[kept], hashes[kept], self._keys_per_block)
        change = [(new - old) & _MASK for new, old in zip(now, _sums_of(certified), strict=True)]
        rows = len(kept) - certified.rows
        self._found += [Mismatch("doubled", key, key, 1) for key in doubled]
        if rows or any(change):
            named = list(
                _named(keys[kept], hashes[kept], rows, change, number * self._keys_per_block, self._keys_per_block)
            )
            self._found += named or [self._range("block", number, max(1, abs(rows)))]

    def _lost(self, block: Block) -> Mismatch:
        """A block of which nothing is there: its one row, or all of it."""
        place = _place(_sums_of(block), self._keys_per_block) if block.rows == 1 else None
        if place is None:
            return self._range("missing", block.number, block.rows)
        key = block.number * self._keys_per_block + place
        return Mismatch("missing", key, key, 1)

    def _range(self, kind: Kind, number: int, rows: int) -> Mismatch:
        first = number * self._keys_per_block
        return Mismatch(kind, first, first + self._keys_per_block - 1, rows)


def _together(found: Sequence[Mismatch]) -> Iterator[Mismatch]:
    """The same in order; where the rows of many blocks in a row are missing, one range instead of each block."""
    runs: list[list[Mismatch]] = []
    for one in found:
        if runs and _goes_on(runs[-1][-1], one):
            runs[-1].append(one)
        else:
            runs.append([one])
    for run in runs:
        if len(run) <= _FEW:
            yield from run
        else:
            yield Mismatch("missing", run[0].first_key, run[-1].last_key, sum(one.rows for one in run))


def _goes_on(one: Mismatch, other: Mismatch) -> bool:
    return one.kind == other.kind == "missing" and one.last_key is not None and other.first_key == one.last_key + 1


def _without_doubles(keys: Keys, hashes: Hashes) -> tuple[list[int], NDArray[np.int64]]:
    """Keys of the rows that repeat the row before them, and the positions of all others."""
    repeats = np.zeros(len(keys), np.bool_)
    repeats[1:] = (keys[1:] == keys[:-1]) & (hashes[1:] == hashes[:-1])
    return keys[repeats].tolist(), np.flatnonzero(~repeats)


def _sums(keys: Keys, hashes: Hashes, per_block: int) -> list[int]:
    return [int(np.add.reduce(part)) for part in moments(keys, hashes, per_block)]


def _sums_of(block: Block) -> list[int]:
    return [block.sum_h, block.sum_hx, block.sum_hxx]


def _named(keys: Keys, hashes: Hashes, rows: int, change: list[int], first: int, per_block: int) -> Iterator[Mismatch]:
    """The row (or the one that went and the one that came) that explains the change of a block; nothing otherwise."""
    held = set(keys.tolist())
    place = _place(change, per_block)
    if rows == 0 and place is not None and first + place in held:
        yield Mismatch("changed", first + place, first + place, 1)
    elif rows == -1 and place is not None:
        yield Mismatch("missing", first + place, first + place, 1)
    elif rows in (0, 1):
        parts = moments(keys, hashes, per_block)
        left = [np.uint64(total) - part for total, part in zip(change, parts, strict=True)]
        for row in np.flatnonzero(left[0] * left[2] == left[1] * left[1]).tolist():
            rest = [int(part[row]) for part in left]
            place = _place(rest, per_block)
            if (rows == 1) != (not any(rest)) or (rows == 0 and place is None):
                continue
            if place is not None:
                yield Mismatch("missing", first + place, first + place, 1)
            yield Mismatch("unexpected", int(keys[row]), int(keys[row]), 1)
            return


def _place(changes: Sequence[int], per_block: int) -> int | None:
    """x, if the changes are d, d·x and d·x² (modulo 2**64) of one d and one x in the block; None otherwise."""
    change, change_x, change_xx = changes
    if not change:
        return None
    twos = (change & -change).bit_length() - 1
    if change_x & ((1 << twos) - 1):
        return None
    modulus = 1 << (64 - twos)
    x = (change_x >> twos) * pow(change >> twos, -1, modulus) % modulus
    return x if x < per_block and (change_x * x - change_xx) & _MASK == 0 else None
