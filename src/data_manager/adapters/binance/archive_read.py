"""Files that were taken, as the pieces of an answer. Blocking: for worker threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from data_manager.adapters.binance.archive_rows import LAYOUTS, Origin, batch_of
from data_manager.adapters.binance.archive_table import Survey
from data_manager.adapters.binance.archive_taking import Taken
from data_manager.domain.batch import Batch, Packed, Refused, joined, settle
from data_manager.domain.checks.bars import opens_of
from data_manager.domain.errors import Invalid
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS
from data_manager.domain.values.columns import Column
from data_manager.domain.values.decimals import Decimals
from data_manager.ports.source import Fetched


class Whole(NamedTuple):
    """The rows of a small file, and what its survey tells."""

    packed: Packed
    survey: Survey


def read_stretches(taken: Taken, part: Span, word: str) -> Iterator[Fetched]:
    """The rows of a file that lie in part, in pieces that fit into memory and partition it."""
    survey = taken.survey
    assert survey is not None, "what is read in pieces was looked through"
    told = False
    for span, lines in taken.table.stretches(part, survey, taken.file.accepts):
        packed = batch_of(lines, LAYOUTS[taken.file.kind.folder], _origin(taken, word))
        yield fetched(span, packed, taken, None if told else survey)
        told = True


def read_whole(taken: Taken, part: Span, word: str) -> Whole:
    """The rows of a small file that lie in part, at once."""
    margin_ms = taken.file.margin_ms
    around = Span(part.start_ms - margin_ms, part.end_ms + margin_ms)
    lines, survey = taken.table.whole(taken.file.accepts, around)
    packed = batch_of(lines, LAYOUTS[taken.file.kind.folder], _origin(taken, word))
    packed = _on_the_grid(packed, taken)
    inside = (packed.batch.time_ms >= part.start_ms) & (packed.batch.time_ms < part.end_ms)
    if not inside.all():
        packed = replace(packed, batch=packed.batch.take(inside))
    return Whole(packed, survey)


def fetched(span: Span, packed: Packed, taken: Taken, survey: Survey | None) -> Fetched:
    """A piece of the file. survey: what is wrong with the file as a whole is told with this piece."""
    rows, refused = packed.batch, list(packed.refused)
    broken = len(refused) + packed.untold + (0 if survey is None else survey.outside + survey.unread)
    evidence = taken.evidence | {"rows": len(rows), "refused": broken}
    if packed.repeated:
        evidence["repeated"] = packed.repeated
    if survey is not None and survey.outside:
        evidence["outside"] = survey.outside
        accepts = taken.file.accepts
        rule = f"must lie in the span of its file, {accepts.start_ms} to {accepts.end_ms}"
        refused.append(Refused(0, Invalid(rows.dataset.time, survey.odd, rule)))
    if survey is not None and survey.unread:
        evidence["unread"] = survey.unread
    return Fetched(span=span, rows=rows, refused=refused, evidence=evidence)


def _on_the_grid(packed: Packed, taken: Taken) -> Packed:
    """Without rows that open where no candle does."""
    batch, interval = packed.batch, taken.file.series.interval
    if interval is None or not len(batch):
        return packed
    opens = opens_of(batch.key, "1d" if interval == "3d" else interval) == batch.key
    if opens.all():
        return packed
    rule = f"must be where a candle of {interval} opens"
    beside = [Refused(int(at), Invalid("open_ms", int(batch.key[at]), rule)) for at in np.flatnonzero(~opens)]
    return replace(packed, batch=batch.take(opens), refused=[*packed.refused, *beside])


def completed(packed: Packed, day: Packed) -> Packed:
    """With the rows of one of its days that came from a file of their own; where both have one the first stays."""
    batch = settle(joined([packed.batch, day.batch]))
    refused, untold = [*packed.refused, *day.refused], packed.untold + day.untold
    return Packed(batch, packed.repeated, refused, untold)


def short_days(batch: Batch, part: Span, rows_per_day: int) -> list[list[int]]:
    """Starts of the days in part that hold too few rows, in runs: those of a run ask on only while files are there.

    Before the first row and after the last one the days nearest to them come first: a contract is listed for one
    stretch of time. Every other short day is a run of its own.
    """
    first, last = -(-part.start_ms // DAY_MS), part.end_ms // DAY_MS
    if first >= last:
        return []
    counts = np.bincount(np.clip(batch.time_ms // DAY_MS - first + 1, 0, last - first + 1), minlength=last - first + 2)
    counts = counts[1:-1]
    held = np.flatnonzero(counts)
    short = np.flatnonzero(counts < rows_per_day)
    if not len(held):
        return [((short + first) * DAY_MS).tolist()]
    before, after = short[short < held[0]][::-1], short[short > held[-1]]
    inner = [[int(one)] for one in short[(short >= held[0]) & (short <= held[-1])]]
    return [[(one + first) * DAY_MS for one in run] for run in (before.tolist(), *inner, after.tolist()) if run]


def with_index_prices(packed: Packed, indexes: Batch) -> Packed:
    """Mark prices with the index prices of the same instants; absent where there are none."""
    marks = packed.batch
    price = indexes.columns["mark_price"]
    assert isinstance(price, Decimals)
    if not len(indexes):
        return packed
    at = np.minimum(np.searchsorted(indexes.key, marks.key), len(indexes) - 1)
    taken = price.take(at)
    absent = indexes.key[at] != marks.key
    column = Decimals(taken.mantissas, taken.scales, taken.odd, absent if absent.any() else None)
    columns: dict[str, Column] = {**marks.columns, "index_price": column}
    return replace(packed, batch=Batch(marks.dataset, marks.series, marks.codes, columns))


def _origin(taken: Taken, word: str) -> Origin:
    revised_ms = taken.answered_ms if "republished" in taken.evidence else None
    name = f"{word} {taken.file.name}".lstrip()
    return Origin(taken.file.series, name, taken.answered_ms, taken.table.per_ms, revised_ms)
