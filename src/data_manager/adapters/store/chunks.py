"""The columnar codec: columns in, one blob out, and back, whole or by column.

    blob    │ header size u32 │ header (msgpack) │ part │ part │ part │ …
    header  [[column name, meta, [part, part, …]], …]           one entry per column
    part    [how, dtype, count, start, stored bytes, raw bytes]  an array of integers
    how     "c"  every value is `start`; nothing stored
            "o"  value - start, in the narrowest integer that fits
            "d"  difference to the value before (the first to `start`), likewise
            "r"  bytes as they are (floats)

Stored bytes are compressed when that makes them smaller, which is why both sizes are there. What a column's arrays
mean (mantissas, scales, absent rows, words) is in its meta; nothing here knows a dataset.
"""

import struct
from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_manager.domain.errors import Corrupt
from data_manager.domain.values.columns import Column, Flags, Floats, Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals, narrow_scales
from data_manager.domain.values.levels import Levels

_WIDTHS = (np.int8, np.int16, np.int32, np.int64)
_SMALL = 64  # bytes below which compressing costs more than it saves
_SIZE = struct.Struct("<I")


def encode(columns: dict[str, Column], compression: str | None) -> bytes:
    """One blob of all columns. compression: a codec's name ("zstd", "lz4") or None for none."""
    codec = pa.Codec(compression) if compression else None
    body: list[bytes] = []
    header = []
    for name, column in columns.items():
        meta, arrays = _apart(column)
        parts = []
        for array in arrays:
            part, stored = _pack(array, codec)
            parts.append(part)
            body.append(stored)
        header.append((name, meta, parts))
    head = msgspec.msgpack.encode((compression, header))
    return b"".join([_SIZE.pack(len(head)), head, *body])


def decode(blob: bytes, names: Collection[str] | None = None) -> dict[str, Column]:
    """The columns of a blob, or only those named. Raises Corrupt for bytes that are no blob of ours."""
    try:
        (size,) = _SIZE.unpack_from(blob)
        compression, header = msgspec.msgpack.decode(memoryview(blob)[4 : 4 + size])
        codec = pa.Codec(compression) if compression else None
        return dict(_columns(memoryview(blob), 4 + size, header, codec, names))
    except (struct.error, msgspec.DecodeError, ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise Corrupt(f"a blob of {len(blob)} bytes is not readable as columns: {error}") from error


def _columns(
    blob: memoryview, start: int, header: list[Any], codec: pa.Codec | None, names: Collection[str] | None
) -> Iterator[tuple[str, Column]]:
    for name, meta, parts in header:
        sizes = [part[4] for part in parts]
        if names is None or name in names:
            arrays = []
            at = start
            for part, size in zip(parts, sizes, strict=True):
                arrays.append(_unpack(part, blob[at : at + size], codec))
                at += size
            yield name, _together(meta, iter(arrays))
        start += sum(sizes)


def _pack(array: NDArray[Any], codec: pa.Codec | None) -> tuple[tuple[Any, ...], bytes]:
    how, start, raw = _narrow(array)
    stored = raw
    if codec is not None and len(raw) > _SMALL:
        squeezed = codec.compress(raw, asbytes=True)
        stored = squeezed if len(squeezed) < len(raw) else raw
    return (
        how,
        array.dtype.str if how == "r" else _width(raw, len(array)),
        len(array),
        start,
        len(stored),
        len(raw),
    ), stored


def _width(raw: bytes, count: int) -> int:
    return len(raw) // count if count else 1


def _narrow(array: NDArray[Any]) -> tuple[str, int, bytes]:
    if array.dtype.kind == "f":
        return "r", 0, array.tobytes()
    if len(array) == 0:
        return "c", 0, b""
    values = array.astype(np.int64, copy=False)
    low, high = int(values.min()), int(values.max())
    if low == high:
        return "c", low, b""
    first = int(values[0])
    steps = np.diff(values, prepend=values[:1])  # wraps around beyond 64 bits, and so does the sum that undoes it
    reach = max(int(steps.max()), -int(steps.min()) - 1)
    span = max(high - first, first - low - 1)
    offset_width, delta_width = _fits(span), _fits(reach)
    if delta_width < offset_width:
        return "d", first, steps.astype(_WIDTHS[delta_width]).tobytes()
    return "o", first, (values - np.int64(first)).astype(_WIDTHS[offset_width]).tobytes()


def _fits(reach: int) -> int:
    """Position in _WIDTHS of the narrowest type that holds -reach - 1 … reach."""
    return 0 if reach < 2**7 else 1 if reach < 2**15 else 2 if reach < 2**31 else 3


def _unpack(part: Any, stored: memoryview, codec: pa.Codec | None) -> NDArray[Any]:
    how, width, count, start, stored_bytes, raw_bytes = part
    if how == "c":
        return np.full(count, start, np.int64)
    raw: Any = stored
    if stored_bytes < raw_bytes:
        assert codec is not None
        raw = codec.decompress(stored, decompressed_size=raw_bytes)
    if how == "r":
        return np.frombuffer(raw, np.dtype(width), count)
    narrow = np.frombuffer(raw, f"<i{width}", count)
    if how == "d":
        values = np.cumsum(narrow, dtype=np.int64)
        values += np.int64(start)
        return values
    return narrow + np.int64(start)


def _apart(column: Column) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """A column as its meta and arrays of integers."""
    match column:
        case Ints(values, absent):
            return {"kind": "int", "absent": absent is not None}, [values, *_bits(absent)]
        case Flags(values):
            return {"kind": "flag", "rows": len(values)}, _bits(values)
        case Floats(values):
            return {"kind": "float"}, [values]
        case Texts(codes, words):
            return {"kind": "text", "words": words}, [codes]
        case Decimals():
            return _apart_decimals(column)
        case Levels():
            prices, price_arrays = _apart_decimals(column.prices)
            quantities, quantity_arrays = _apart_decimals(column.quantities)
            meta = {"kind": "levels", "prices": prices, "quantities": quantities}
            return meta, [column.counts, *price_arrays, *quantity_arrays]
        case _:
            raise TypeError(f"no layout for {type(column)}")


def _apart_decimals(column: Decimals) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    scales = column.scales if isinstance(column.scales, int) else narrow_scales(column.scales)
    scale = scales if isinstance(scales, int) else None
    meta = {"kind": "number", "scale": scale, "odd": column.odd, "absent": column.absent is not None}
    return meta, [column.mantissas, *([] if isinstance(scales, int) else [scales]), *_bits(column.absent)]


def _together(meta: dict[str, Any], arrays: Iterator[NDArray[Any]]) -> Column:
    match meta["kind"]:
        case "int":
            values = next(arrays)
            return Ints(values, _mask(next(arrays), len(values)) if meta["absent"] else None)
        case "flag":
            return Flags(_mask(next(arrays), meta["rows"]))
        case "float":
            return Floats(next(arrays))
        case "text":
            return Texts(next(arrays).astype(np.int32), tuple(meta["words"]))
        case "number":
            return _together_decimals(meta, arrays)
        case "levels":
            counts = next(arrays).astype(np.int32)
            return Levels(
                counts, _together_decimals(meta["prices"], arrays), _together_decimals(meta["quantities"], arrays)
            )
        case kind:
            raise ValueError(f"unknown column kind {kind!r}")


def _together_decimals(meta: dict[str, Any], arrays: Iterator[NDArray[Any]]) -> Decimals:
    mantissas = next(arrays)
    scales = next(arrays).astype(np.uint8) if meta["scale"] is None else meta["scale"]
    return Decimals(mantissas, scales, meta["odd"], _mask(next(arrays), len(mantissas)) if meta["absent"] else None)


def _bits(mask: Mask | None) -> list[NDArray[np.uint8]]:
    return [] if mask is None else [np.packbits(mask)]


def _mask(bits: NDArray[Any], rows: int) -> Mask:
    return np.unpackbits(bits.astype(np.uint8), count=rows).astype(np.bool_)
