"""Rows that are changed or deleted behind our back, after they were certified: verify must name each of them."""

from __future__ import annotations

from random import Random
from typing import Final

import numpy as np

from data_manager.domain.batch import Batch, build
from data_manager.domain.dataset import Kind
from data_manager.domain.proof.canonical import facts
from data_manager.domain.span import Span
from data_manager.ports import SeriesStore
from data_manager.services.conditions import Conditions
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.verify import verify
from data_manager.services.selftest.faults import Put
from data_manager.services.selftest.playing import Stage, TapeClock
from data_manager.services.selftest.scoring import Report, Score, told

TAMPER: Final = "tamper"
_LEAST: Final = 10  # rows a series must have


async def tampered(stage: Stage, end_ms: int, random: Random) -> Score:
    """Of every series on the stage one row is changed, then one deleted; each after a certificate, and verified."""
    clock = TapeClock(end_ms + 1)
    certifier = Certifier(stage.store, stage.records, Conditions(stage.records, clock), clock)
    puts: list[Put] = []
    reports: list[Report] = []
    for series in await stage.store.series():
        span = await certifier.span_of(series, None, None)
        for kind in ("changed", "missing"):
            certificate = await certifier.certify(series, span)
            put = await _tamper(stage.store, await stage.store.scan(series, span), kind, random)
            if put is not None:
                puts.append(put)
                proof = await verify(stage.store, stage.records, certificate, clock)
                reports += [
                    Report(kind=one.kind, series=series.id, key=one.first_key or 0, last_key=one.last_key or 0)
                    for one in proof.mismatches
                ]
    named = {(one.kind, one.series, one.key, one.last_key) for one in reports}
    found = [put for put in puts if (put.found_as, put.series, put.key, put.key) in named]
    return told(TAMPER, puts, found, reports)


async def _tamper(store: SeriesStore, rows: Batch, kind: str, random: Random) -> Put | None:
    """Delete one row that is alone at its time, and for a change put another in its place; None where none can be."""
    times, counts = np.unique(rows.time_ms, return_counts=True)
    alone = np.flatnonzero(np.isin(rows.time_ms, times[counts == 1])).tolist()[1:-1]
    if len(rows) < _LEAST or not alone:
        return None
    at = random.choice(alone)
    row, time_ms = rows.take(slice(at, at + 1)), int(rows.time_ms[at])
    dropped = await store.drop(row.series[0], Span(time_ms, time_ms + 1))
    assert dropped == 1, "the row is alone at its time"
    if kind == "changed":
        await store.append(_another(row, random))
    key = int(row.key[0])
    return Put(
        found_as=kind, series=row.series[0].id, key=key, last_key=key, start_ms=time_ms, end_ms=time_ms, at_ms=time_ms
    )


def _another(row: Batch, random: Random) -> Batch:
    """The row with another value in one of its numbers."""
    dataset = row.dataset
    numbers = [one for one in facts(dataset) if one.kind is Kind.NUMBER and one.name not in dataset.key]
    held = [one for one in numbers if row.columns[one.name].values_list()[0] is not None]
    if held:
        field = random.choice(held)
        column, _ = build(field, [f"{row.columns[field.name].values_list()[0]}7"])
    else:
        field = next(one for one in facts(dataset) if one.kind is Kind.LEVELS)
        levels = row.columns[field.name].values_list()[0]
        column, _ = build(field, [[*levels, ("1", "7")]])
    return Batch(dataset, row.series, row.codes, {**row.columns, field.name: column})
