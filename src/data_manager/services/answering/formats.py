"""Rows as bytes: what the API answers and the command line prints, made from the same columns by the same code.

The members of a row are those of dataset.answer, in its order:

    form         JSON, NDJSON                CSV               Arrow, Parquet
    time         "2023-04-05T00:00:00.010Z"  the same text     timestamp[ms, UTC]
    taker_side   "buy" or "sell"             the same text     string
    plain        number: the venue's text    the same text     decimal, exact (equal value, not equal text)
                 id, count: JSON integer     the same digits   int64
                 book side: [{price,         that JSON         list<struct<price, quantity>>
                   quantity}, …]
    absent       null                        nothing           null
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Answer
from data_manager.domain.errors import BadQuery
from data_manager.domain.time import EARLIEST_MS, iso
from data_manager.domain.values.columns import Column, Flags, Floats, Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals
from data_manager.domain.values.levels import Levels
from data_manager.services.answering.cells import Member, Piece, lines, numbers, texts, times

_BLOCK_ROWS = 4_096  # rows written at once: the page of bytes stays in the processor's cache
_SIDES = (b"buy", b"sell")  # of the taker, by "the buyer is the maker"
_NO_NOTES: Mapping[str, str] = {}


class Format(NamedTuple):
    """A way to write rows. encode takes the rows and notes that travel with them where the format has room."""

    name: str
    media_type: str
    suffix: str
    encode: Callable[[Batch, Mapping[str, str]], bytes]


def json_rows(batch: Batch, notes: Mapping[str, str] = _NO_NOTES) -> bytes:
    """[{…},{…}]: one array of objects."""
    return b"[" + _json(batch, b"},")[:-1] + b"]"


def ndjson(batch: Batch, notes: Mapping[str, str] = _NO_NOTES) -> bytes:
    """One object per line."""
    return _json(batch, b"}\n")


def csv(batch: Batch, notes: Mapping[str, str] = _NO_NOTES) -> bytes:
    """A line of names, then one line per row."""
    return csv_head(batch) + csv_rows(batch)


def csv_head(batch: Batch) -> bytes:
    """The line of names."""
    return ",".join(answer.name for answer in batch.dataset.answer).encode() + b"\n"


def csv_rows(batch: Batch) -> bytes:
    """One line per row, without the names."""
    parts = []
    for block in _blocks(batch):
        members = [
            Member(b"," if position else b"", b"", text.csv, text.absent, b"")
            for position, text in enumerate(_texts(block))
        ]
        parts.append(lines(len(block), members, b"\n"))
    return b"".join(parts)


def arrow_table(batch: Batch, notes: Mapping[str, str] = _NO_NOTES) -> pa.Table:
    """The rows as Arrow. The schema's metadata says dataset, series and the notes."""
    names = [answer.name for answer in batch.dataset.answer]
    arrays = [_arrow(answer, batch.columns[answer.column]) for answer in batch.dataset.answer]
    about = {"dataset": batch.dataset.name, "series": " ".join(one.id for one in batch.series), **notes}
    return pa.Table.from_arrays(arrays, names=names).replace_schema_metadata(about)


def arrow_stream(batch: Batch, notes: Mapping[str, str] = _NO_NOTES) -> bytes:
    """An Arrow IPC stream."""
    table = arrow_table(batch, notes)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parquet(batch: Batch, notes: Mapping[str, str] = _NO_NOTES) -> bytes:
    """A Parquet file, zstd."""
    sink = pa.BufferOutputStream()
    pq.write_table(arrow_table(batch, notes), sink, compression="zstd")
    return bytes(sink.getvalue())


def table(batch: Batch) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of text for people; absent is empty, a book side is its best level and how many there are."""
    answers = batch.dataset.answer
    columns = [_shown(answer, batch.columns[answer.column]) for answer in answers]
    return [answer.name for answer in answers], [list(row) for row in zip(*columns, strict=True)]


def _shown(answer: Answer, column: Column) -> list[str]:
    values = column.values_list()
    if answer.form == "time":
        return ["" if ms is None else iso(ms) for ms in values]
    if answer.form == "taker_side":
        return [_SIDES[maker].decode() for maker in values]
    if isinstance(column, Levels):
        return [f"{side[0][0]} x {side[0][1]} (1 of {len(side)})" if side else "" for side in values]
    return ["" if value is None else str(value) for value in values]


FORMATS = {
    one.name: one
    for one in (
        Format("json", "application/json", "json", json_rows),
        Format("ndjson", "application/x-ndjson", "ndjson", ndjson),
        Format("csv", "text/csv", "csv", csv),
        Format("arrow", "application/vnd.apache.arrow.stream", "arrows", arrow_stream),
        Format("parquet", "application/vnd.apache.parquet", "parquet", parquet),
    )
}
"""Every format by the word that asks for it."""


def require_format(word: str) -> Format:
    """The format of that word; BadQuery names the words there are."""
    if word not in FORMATS:
        raise BadQuery("format", word, f"must be one of {' '.join(FORMATS)}")
    return FORMATS[word]


class _Text(NamedTuple):
    """The values of one member: their pieces in JSON and in CSV, and what stands around them in JSON."""

    json: tuple[Piece, ...]
    csv: tuple[Piece, ...]
    around: bytes
    absent: Mask | None


def _json(batch: Batch, end: bytes) -> bytes:
    names = [
        b'%s"%s":' % (b"," if position else b"{", answer.name.encode())
        for position, answer in enumerate(batch.dataset.answer)
    ]
    parts = []
    for block in _blocks(batch):
        values = zip(names, _texts(block), strict=True)
        members = [Member(name, text.around, text.json, text.absent, b"null") for name, text in values]
        parts.append(lines(len(block), members, end))
    return b"".join(parts)


def _blocks(batch: Batch) -> Iterator[Batch]:
    if len(batch) <= _BLOCK_ROWS:
        yield batch
        return
    for start in range(0, len(batch), _BLOCK_ROWS):
        yield batch.take(slice(start, start + _BLOCK_ROWS))


def _texts(batch: Batch) -> list[_Text]:
    """Every member of the answer, written. All numbers go through the digit kernels together."""
    columns = [batch.columns[answer.column] for answer in batch.dataset.answer]
    plain = [
        column
        for answer, column in zip(batch.dataset.answer, columns, strict=True)
        if answer.form == "plain" and isinstance(column, Ints | Decimals)
    ]
    written = iter(numbers(plain))
    return [_text(answer, column, written) for answer, column in zip(batch.dataset.answer, columns, strict=True)]


def _text(answer: Answer, column: Column, written: Iterator[tuple[Piece, ...]]) -> _Text:
    match column:
        case Ints() if answer.form == "time":
            return _alike(times(column.filled(EARLIEST_MS)), b'"', column.absent)
        case Ints():
            return _alike(next(written), b"", column.absent)
        case Decimals():
            return _alike(next(written), b'"', column.absent)
        case Texts():
            return _words(column)
        case Flags() if answer.form == "taker_side":
            return _alike((texts(_SIDES, column.values.astype(np.int32)),), b'"', None)
        case Flags():
            return _alike((texts((b"false", b"true"), column.values.astype(np.int32)),), b"", None)
        case Floats():
            return _floats(column)
        case Levels():
            sides = _levels(column)
            quoted = [b'"' + side.replace(b'"', b'""') + b'"' for side in sides]
            return _Text((sides,), (quoted,), b"", None)
        case _:
            raise TypeError(f"{answer.name}: no text for a {type(column).__name__}")


def _alike(pieces: tuple[Piece, ...], around: bytes, absent: Mask | None) -> _Text:
    return _Text(pieces, pieces, around, absent)


def _words(column: Texts) -> _Text:
    escaped = [msgspec.json.encode(word)[1:-1] for word in column.words]
    quoted = [_csv_word(word) for word in column.words]
    absent = column.codes < 0
    return _Text(
        (texts([*escaped, b""], column.codes),),
        (texts([*quoted, b""], column.codes),),
        b'"',
        absent if absent.any() else None,
    )


def _csv_word(word: str) -> bytes:
    """A text as a CSV cell: quoted where needed; control characters, which no venue's word holds, become blanks."""
    plain = "".join(max(letter, " ") for letter in word)
    if any(mark in plain for mark in ',"'):
        plain = '"' + plain.replace('"', '""') + '"'
    return plain.encode()


def _floats(column: Floats) -> _Text:
    finite = np.isfinite(column.values)
    words = [repr(value).encode() for value in np.where(finite, column.values, 0.0).tolist()]
    return _alike((texts(words),), b"", None if finite.all() else ~finite)


def _levels(column: Levels) -> list[bytes]:
    """Each row's book side as JSON."""
    prices, quantities = numbers([column.prices, column.quantities])
    pair = (Member(b'{"price":', b'"', prices, None, b""), Member(b',"quantity":', b'"', quantities, None, b""))
    pairs = lines(len(column.prices), pair, b"}\n").split(b"\n")
    bounds = column.offsets.tolist()
    return [b"[" + b",".join(pairs[start:end]) + b"]" for start, end in pairwise(bounds)]


def _arrow(answer: Answer, column: Column) -> pa.Array:
    match column:
        case Ints() if answer.form == "time":
            return pa.array(column.values.astype("M8[ms]"), pa.timestamp("ms", "UTC"), mask=column.absent)
        case Flags() if answer.form == "taker_side":
            return pa.array(np.where(column.values, "sell", "buy"), pa.string())
        case _:
            found: Any = column.arrow()
            return found
