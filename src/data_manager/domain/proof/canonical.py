"""The one form of a row that every store must agree on, whatever it keeps it in.

What counts is what the venue said: not when we received it, who brought it or when it was sent (a candle that was
streamed and the same candle fetched later are one fact). Numbers count by value: 1.10 is 1.1. Absent is not 0.

    column of kind   streams, one item per row
    INT              values as 8 bytes; present as 1 byte where the field is optional
    NUMBER           mantissas as 8 bytes, scales as 1 byte: no zero at the end of a fraction; scale 254 is absent;
                     scale 255 stands for a number beyond 64 bits, with 8 bytes of the SHA-256 of its text
    TEXT             8 bytes of the SHA-256 of the text, 0 where absent
    FLAG             1 byte
    FLOAT            8 bytes, -0.0 as 0.0 and one NaN for absent
    LEVELS           count as 4 bytes; prices and quantities of all levels, each as NUMBER

All little endian. The streams of a series are its content; row_hashes() makes of them one 64-bit number per row, in
which any change of one value changes the number for certain.
"""

import hashlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Field
from data_manager.domain.values.columns import Column, Flags, Floats, Ints, Texts
from data_manager.domain.values.decimals import Decimals
from data_manager.domain.values.exact import digits
from data_manager.domain.values.levels import Levels

FORM: Final = 1
"""Version of the form above: contents of different forms cannot be compared."""

_ABSENT: Final = 254
_WIDE: Final = 255
_BLOCK: Final = 1 << 14  # rows mixed in one go: what is at work stays in the processor's cache

Hashes = NDArray[np.uint64]
Streams = dict[str, NDArray[Any]]

# Odd multipliers (the fractional parts of the golden ratio and of the square roots of 2 and 3) and the finalizer of
# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): all of them are one-to-one on 64 bits.
_TURN: Final = np.uint64(0x9E3779B97F4A7C15)
_LEVEL: Final = np.uint64(0x6A09E667F3BCC909)
_MIX: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST: Final = np.uint64(31)


def facts(dataset: Dataset) -> tuple[Field, ...]:
    """The fields that say what the venue said."""
    ours = {"received_ms", "origin", "event_ms", dataset.live} - {*dataset.key, dataset.time}
    return tuple(field for field in dataset.fields if field.name not in ours)


def streams(batch: Batch) -> dict[str, Streams]:
    """By field, the streams of its column; the batch holds every fact of its dataset."""
    return {field.name: _streams(field, batch.columns[field.name]) for field in facts(batch.dataset)}


def row_hashes(rows: int, fields: dict[str, Streams]) -> Hashes:
    """One number per row over all its values."""
    hashes = np.zeros(rows, np.uint64)
    flat = {name: _level_hashes(parts) for name, parts in fields.items() if "counts" in parts}
    for at in range(0, rows, _BLOCK):
        block = hashes[at : at + _BLOCK]
        for name, parts in fields.items():
            for values in (flat[name],) if name in flat else parts.values():
                block *= _TURN
                block += _bits(values[at : at + _BLOCK])
            block *= _TURN
        _finalize(block)
    return hashes


def normal(column: Decimals) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Mantissas and scales such that equal numbers are equal: no fraction ends in 0, and 0 has scale 0."""
    mantissas, scales = column.mantissas.copy(), column.scale_array().copy()
    scales[mantissas == 0] = 0
    if scales.any():
        shorter = mantissas // 10
        rows = np.flatnonzero((shorter * 10 == mantissas) & (scales > 0))
        while len(rows):
            mantissas[rows] //= 10
            scales[rows] -= 1
            rest = mantissas[rows]
            rows = rows[(rest // 10 * 10 == rest) & (scales[rows] > 0)]
    for row, text in column.odd.items():
        mantissas[row], scales[row] = _normal_odd(text)
    if column.absent is not None:
        mantissas[column.absent], scales[column.absent] = 0, _ABSENT
    return mantissas, scales


def _normal_odd(text: str) -> tuple[int, int]:
    mantissa, scale = digits(text)
    while scale and mantissa % 10 == 0:
        mantissa, scale = mantissa // 10, scale - 1
    if -(2**63) <= mantissa < 2**63:
        return mantissa, scale
    return int.from_bytes(_digest(f"{mantissa}e-{scale}"), "little", signed=True), _WIDE


def _streams(field: Field, column: Column) -> Streams:
    match column:
        case Ints():
            values = {"values": column.filled(0).astype("<i8", copy=False)}
            if field.optional:
                present = np.ones(len(column), np.uint8) if column.absent is None else (~column.absent).view(np.uint8)
                return {**values, "present": present}
            return values
        case Decimals():
            return _numbers(column, "")
        case Texts():
            words = np.frombuffer(b"".join(map(_digest, column.words)) + bytes(8), "<u8")
            return {"digests": words[column.codes]}
        case Flags():
            return {"flags": column.values.view(np.uint8)}
        case Floats():
            floats = np.where(np.isnan(column.values), np.nan, column.values + 0.0)
            return {"floats": floats.astype("<f8", copy=False).view("<i8")}
        case Levels():
            return {
                "counts": column.counts.astype("<i4", copy=False),
                **_numbers(column.prices, "price_"),
                **_numbers(column.quantities, "quantity_"),
            }
    raise AssertionError(f"no form for a column of {type(column)}")


def _numbers(column: Decimals, prefix: str) -> Streams:
    mantissas, scales = normal(column)
    return {f"{prefix}mantissas": mantissas.astype("<i8", copy=False), f"{prefix}scales": scales}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:8]


def _level_hashes(parts: Streams) -> Hashes:
    """Per row one number over its levels, their number and their order."""
    counts = parts["counts"].astype(np.int64)
    ends = np.cumsum(counts)
    level = np.arange(len(parts["price_mantissas"])) - np.repeat(ends - counts, counts)
    mixed = _bits(level) * _LEVEL
    for name in ("price_mantissas", "price_scales", "quantity_mantissas", "quantity_scales"):
        mixed *= _TURN
        mixed += _bits(parts[name])
    _finalize(mixed)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    hashes: Hashes = total[ends] - total[ends - counts] + _bits(counts) * _LEVEL
    return hashes


def _bits(values: NDArray[Any]) -> Hashes:
    if values.dtype.itemsize == 8:
        return values.view(np.uint64)
    return values.astype(np.uint64)


def _finalize(hashes: Hashes) -> None:
    for shift, factor in _MIX:
        hashes ^= hashes >> shift
        hashes *= factor
    hashes ^= hashes >> _LAST
