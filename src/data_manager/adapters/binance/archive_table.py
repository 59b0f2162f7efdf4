"""The table inside a zip of the archive, read block by block: a file may be far larger than memory.

A small one is read at once. Of a large one first a survey of the times alone: whether the zip is whole, whether rows
stand in order. Then the rows: in order, block by block as they stand; out of order (some files have every other row
from elsewhere) by stretches of time that fit into memory, one pass over the file each.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.adapters.binance.archive_rows import Layout, Lines, unit_of, whole_numbers
from data_manager.domain.errors import Corrupt
from data_manager.domain.span import Span
from data_manager.domain.time import MINUTE_MS

_BLOCK_BYTES: Final = 1024 * 1024  # of text: some 15,000 rows
_STRETCH_ROWS: Final = 250_000  # of a file out of order, sorted at once
_POOL: Final[Any] = pa.jemalloc_memory_pool() if "jemalloc" in pa.supported_memory_backends() else None
"""For blocks that come and go: the default pool keeps what threads once needed, some 40 MB more in all."""

_PEEK_BYTES: Final = 64 * 1024


class Survey(Struct, frozen=True):
    """What one pass over the times of a file tells.

    outside: rows whose time the file's span does not accept, odd: one of these times as it stands. minutes: rows by
    minute from the start of what it accepts. unread: lines with another number of columns.
    """

    rows: int
    ordered: bool
    outside: int
    odd: str | None
    minutes: NDArray[np.int64]
    unread: int


class Table:
    """One zip with one table. Nothing stays open between two calls; safe in any thread, one at a time."""

    def __init__(self, path: Path, name: str, layout: Layout) -> None:
        """name: of the file, for messages. Raises Corrupt for what is no such zip."""
        self.path = path
        self._name = name
        self._layout = layout
        with self._opened() as stream:
            head = stream.read(_PEEK_BYTES).decode("utf-8", "replace")
        lines = [line for line in head.split("\n") if line.strip()]
        self._width = lines[0].count(",") + 1 if lines else 0
        self._header = self._width > 0 and not self._time_of(lines[0]).lstrip("-").isdigit()
        if self._width and self._width <= max(layout.read):
            raise Corrupt(f"{name}: {self._width} columns, {max(layout.read) + 1} are needed")
        times = [self._time_of(line) for line in lines[self._header :]]
        self.is_empty = not times
        text = next((one for one in times if one.isdigit()), times[0] if times else "")
        per_ms = unit_of(int(text)) if text.isdigit() and len(text) < 20 else None
        if times and per_ms is None:
            raise Corrupt(f"{name}: its first time is {text[:40]!r}, which is no time of our age")
        self.per_ms = per_ms or 1

    def survey(self, accepts: Span) -> Survey:
        """Read all times once. Raises Corrupt where the zip or the table breaks off."""
        seen = _Seen(accepts)
        for lines in self._blocks([self._layout.time], seen.unread):
            seen.add(self.times(lines), lines[self._layout.time])
        return seen.survey()

    def whole(self, accepts: Span, span: Span) -> tuple[Lines, Survey]:
        """All lines of a small file with a time in span, as they stand, and its survey. Raises Corrupt likewise."""
        seen = _Seen(accepts)
        pieces = [self._nothing()]
        for lines in self._blocks(self._layout.read, seen.unread):
            times = self.times(lines)
            seen.add(times, lines[self._layout.time])
            pieces.append(_cut(lines, times, span))
        return _joined(pieces), seen.survey()

    def within(self, span: Span) -> Lines:
        """All lines with a time in span, as they stand."""
        pieces = [_cut(lines, self.times(lines), span) for lines in self._blocks(self._layout.read, [])]
        return _joined([self._nothing(), *pieces])

    def stretches(self, span: Span, survey: Survey, accepts: Span) -> Iterator[tuple[Span, Lines]]:
        """Lines with a time in span, by parts of the span that follow one another and hold all their lines."""
        if survey.ordered:
            yield from self._as_they_stand(span)
            return
        for part in _parts(span, survey.minutes, accepts.start_ms // MINUTE_MS * MINUTE_MS):
            yield part, self.within(part)

    def times(self, lines: Lines) -> NDArray[np.int64]:
        """The lines' times in milliseconds; 0 where there is none."""
        return whole_numbers(lines[self._layout.time])[0].values // self.per_ms

    def _as_they_stand(self, span: Span) -> Iterator[tuple[Span, Lines]]:
        """Block by block; lines of the last instant of a block wait for the next one."""
        at_ms = span.start_ms
        waiting: Lines | None = None
        for block in self._blocks(self._layout.read, []):
            lines = _cut(block, self.times(block), span)
            if waiting is not None:
                lines = _joined([waiting, lines])
            times = self.times(lines)
            until_ms = int(times[-1]) if len(times) else at_ms
            if until_ms <= at_ms:
                waiting = lines
                continue
            ready = int(np.searchsorted(times, until_ms))
            yield Span(at_ms, until_ms), {place: lines[place].slice(0, ready) for place in lines}
            waiting = {place: lines[place].slice(ready) for place in lines}
            at_ms = until_ms
        yield Span(at_ms, span.end_ms), waiting or self._nothing()

    def _blocks(self, places: Sequence[int], unread: list[str]) -> Iterator[Lines]:
        """Columns at these places, block by block, as text. unread: takes the lines that do not have their columns."""
        if self.is_empty:
            return

        def note(row: Any) -> str:
            unread.append(str(row.text)[:120])
            return "skip"

        names = [str(place) for place in range(self._width)]
        with self._opened() as stream, self._translated():
            reader = pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows=int(self._header)
                ),
                parse_options=pacsv.ParseOptions(invalid_row_handler=note),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), include_columns=[names[place] for place in places],
                    strings_can_be_null=False,
                ),
                memory_pool=_POOL,
            )  # fmt: skip
            for batch in reader:
                yield {place: batch.column(at) for at, place in enumerate(places)}

    def _nothing(self) -> Lines:
        return {place: pa.array([], pa.string()) for place in self._layout.read}

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with self._translated(), zipfile.ZipFile(self.path) as archive:
            entries = archive.infolist()
            if len(entries) != 1:
                raise Corrupt(f"{self._name}: holds {len(entries)} files, one table belongs there")
            with archive.open(entries[0]) as stream:
                yield stream

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever is wrong inside a file whose checksum fits is wrong as published."""
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, pa.ArrowInvalid, NotImplementedError) as error:
            raise Corrupt(f"{self._name}: cannot be read as published: {error}") from error

    def _time_of(self, line: str) -> str:
        fields = line.strip().split(",")
        return fields[self._layout.time].strip() if len(fields) > self._layout.time else ""


class _Seen:
    """What the times of a file tell, block by block."""

    def __init__(self, accepts: Span) -> None:
        self._accepts = accepts
        self._first_minute = accepts.start_ms // MINUTE_MS
        self._minutes = np.zeros(-(-accepts.end_ms // MINUTE_MS) - self._first_minute, np.int64)
        self._rows = self._outside = 0
        self._odd: str | None = None
        self._ordered = True
        self._last_ms = -1
        self.unread: list[str] = []

    def add(self, times: NDArray[np.int64], texts: Any) -> None:
        """The next block: its times, and these as they stand."""
        inside = (times >= self._accepts.start_ms) & (times < self._accepts.end_ms)
        self._rows += len(times)
        if not inside.all():
            self._outside += int((~inside).sum())
            self._odd = self._odd or texts[int(np.argmin(inside))].as_py()
            times = times[inside]
        if len(times):
            self._ordered = self._ordered and bool(times[0] >= self._last_ms and (times[1:] >= times[:-1]).all())
            self._last_ms = int(times[-1])
            self._minutes += np.bincount(times // MINUTE_MS - self._first_minute, minlength=len(self._minutes))

    def survey(self) -> Survey:
        """All of it."""
        return Survey(self._rows, self._ordered, self._outside, self._odd, self._minutes, len(self.unread))


def _cut(lines: Lines, times: NDArray[np.int64], span: Span) -> Lines:
    inside = (times >= span.start_ms) & (times < span.end_ms)
    if inside.all():
        return lines
    mask = pa.array(inside)
    return {place: pc.filter(column, mask, memory_pool=_POOL) for place, column in lines.items()}


def _joined(pieces: Sequence[Lines]) -> Lines:
    return {place: pa.concat_arrays([one[place] for one in pieces], memory_pool=_POOL) for place in pieces[0]}


def _parts(span: Span, minutes: NDArray[np.int64], origin_ms: int) -> Iterator[Span]:
    """Parts of span that hold some _STRETCH_ROWS rows each; a minute with more is one part."""
    filled = np.cumsum(minutes)
    edges = [span.start_ms]
    taken = 0
    for number in np.flatnonzero(np.diff(filled // _STRETCH_ROWS, prepend=0)).tolist():
        edge_ms = origin_ms + (number + 1) * MINUTE_MS
        if edges[-1] < edge_ms < span.end_ms and filled[number] > taken:
            edges.append(edge_ms)
            taken = int(filled[number])
    yield from (Span(low, high) for low, high in pairwise([*edges, span.end_ms]))
