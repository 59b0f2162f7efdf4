"""Commands that read what is held, while the service runs or while it does not."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from data_manager import settings
from data_manager.cli.dead_letters import dead_letters
from data_manager.cli.output import quiet_logs, say_json, say_table
from data_manager.domain.errors import BadQuery

if TYPE_CHECKING:
    from data_manager.domain.batch import Batch
    from data_manager.domain.dataset import Series
    from data_manager.domain.span import Span
    from data_manager.services.answering.query import Page
    from data_manager.services.conditions import Condition

rows = typer.Typer()
rows.add_typer(dead_letters)
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]

LIMIT_MAX = 10_000_000
_BINARY = ("arrow", "parquet")


@rows.command("query")
def query(
    dataset: Annotated[str, typer.Argument(help="trade, candle, depth, …; or the id of a whole series.")],
    symbol: Annotated[str, typer.Argument(help="Such as BTCUSDT.")] = "",
    interval: Annotated[str, typer.Argument(help="Of candles, such as 1m.")] = "",
    start: Annotated[str, typer.Option(help="First time, inclusive: ISO 8601 or milliseconds.")] = "",
    end: Annotated[str, typer.Option(help="Last time, exclusive.")] = "",
    limit: Annotated[int, typer.Option(help="Rows at most.")] = 100,
    order: Annotated[str, typer.Option(help="asc or desc, by time.")] = "asc",
    cursor: Annotated[str, typer.Option(help="Go on where an answer ended.")] = "",
    columns: Annotated[str, typer.Option(help="Only these, joined by commas.")] = "",
    form: Annotated[str, typer.Option("--format", help="table json ndjson csv arrow parquet")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Print rows of one series. With only a limit: the newest, in ascending order.

    Works while the service runs. How complete the rows are is said on standard error.
    """
    in_force = settings.load(os.environ)
    quiet_logs()
    form = "json" if as_json and form == "table" else form
    _require_form(form, output)
    given = {"start": start, "end": end, "cursor": cursor, "sort_order": order, "limit": str(limit)}
    series = _series(dataset, symbol, interval, in_force.market)
    answer = asyncio.run(_ask(in_force, series, {name: text for name, text in given.items() if text}))
    batch = _chosen(answer.page.rows, columns)
    if form == "table":
        _say_rows(batch, output)
    else:
        _write(_encoded(batch, form, answer.condition), output)
    _say_about(answer, series, as_json=as_json)


def _require_form(form: str, output: Path | None) -> None:
    from data_manager.services.answering.formats import FORMATS

    if form not in ("table", *FORMATS):
        raise BadQuery("format", form, f"must be one of table {' '.join(FORMATS)}")
    if form in _BINARY and output is None and sys.stdout.isatty():
        raise BadQuery("format", form, "is not for a terminal: name a file with --output")


def _series(dataset: str, symbol: str, interval: str, market: str) -> "Series":
    from data_manager.domain.dataset import make_series, parse_series
    from data_manager.domain.datasets import DATASETS

    words = {word: one for one in DATASETS.values() for word in (one.path, one.alias, one.name)}
    if not symbol and dataset not in words:
        return parse_series(dataset, DATASETS, market)
    if dataset not in words:
        raise BadQuery("dataset", dataset, f"must be one of {' '.join(DATASETS)}")
    return make_series(words[dataset], market, symbol, interval or None)


class _Answer(NamedTuple):
    """Rows, what they speak of, and how complete that is."""

    page: "Page"
    span: "Span | None"
    condition: "Condition"


async def _ask(in_force: settings.Settings, series: "Series", given: Mapping[str, str]) -> _Answer:
    from data_manager import app
    from data_manager.domain.datasets import DATASETS
    from data_manager.services.answering.query import fetch, parse
    from data_manager.services.conditions import answered_span

    names = {"pair": series.symbol} | ({"period": series.interval} if series.interval else {})
    question = parse(DATASETS[series.dataset], series.market, {**names, **given}, limit_max=LIMIT_MAX)
    async with app.reader(in_force) as store:
        page = await fetch(store, question)
    span = answered_span(question, page)
    return _Answer(page, span, await _condition(in_force, series, span))


async def _condition(in_force: settings.Settings, series: "Series", span: "Span | None") -> "Condition":
    """What the audits know of the span; nothing where the metadata cannot be read."""
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.domain.condition.partition import Condition as Word
    from data_manager.domain.condition.partition import Range
    from data_manager.domain.errors import DataManagerError
    from data_manager.service.auditing import conditions_of
    from data_manager.services.conditions import NOTHING, Condition

    if span is None:
        return NOTHING
    try:
        meta = await open_meta(in_force.metadata_url, migrate=False)
    except DataManagerError:
        return Condition(None, [Range(span.start_ms, span.end_ms, Word.UNVERIFIED, "the metadata cannot be read")])
    try:
        return await conditions_of(in_force, meta).condition_of(series, span)
    finally:
        await meta.close()


def _chosen(batch: "Batch", columns: str) -> "Batch":
    """The rows with only those members of an answer, in that order."""
    from dataclasses import replace

    from msgspec import structs

    if not columns:
        return batch
    members = {answer.name: answer for answer in batch.dataset.answer}
    names = [name.strip() for name in columns.split(",")]
    for name in names:
        if name not in members:
            raise BadQuery("columns", name, f"must be among {' '.join(members)}")
    return replace(batch, dataset=structs.replace(batch.dataset, answer=tuple(members[name] for name in names)))


def _say_rows(batch: "Batch", output: Path | None) -> None:
    from data_manager.domain.dataset import Kind
    from data_manager.services.answering.formats import table

    if output is not None:
        raise BadQuery("output", str(output), "takes a format for files: json ndjson csv arrow parquet")
    heads, lines = table(batch)
    kinds = {answer.name: batch.dataset.field[answer.column].kind for answer in batch.dataset.answer}
    say_table(heads, lines, right=[name for name, kind in kinds.items() if kind in (Kind.INT, Kind.NUMBER)])


def _encoded(batch: "Batch", form: str, condition: "Condition") -> bytes:
    from msgspec import json

    from data_manager.domain.condition.partition import range_facts
    from data_manager.services.answering.formats import require_format

    notes = {"data_completeness": condition.completeness, "coverage": range_facts(condition.ranges)}
    encoded = require_format(form).encode(batch, {name: json.encode(fact).decode() for name, fact in notes.items()})
    return encoded + b"\n" if form == "json" else encoded


def _write(content: bytes, output: Path | None) -> None:
    if output is None:
        typer.echo(content, nl=False)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise BadQuery("output", str(output), f"cannot be written ({error.strerror})") from error


def _say_about(answer: _Answer, series: "Series", *, as_json: bool) -> None:
    """Never rows without how complete they are. On standard error, so that what is piped is rows only."""
    from data_manager.domain.condition.partition import range_facts, shares_text
    from data_manager.domain.health import percent

    page, condition = answer.page, answer.condition
    if as_json:
        about = {
            "series": series.id,
            "rows": len(page.rows),
            "data_completeness": condition.completeness,
            "coverage": range_facts(condition.ranges),
            "next_cursor": page.next_cursor,
        }
        say_json(about, err=True)
        return
    complete = "nobody knows what is missing"
    if condition.completeness is not None:
        complete = f"{percent(condition.completeness):.2f} % complete"
    shares = "" if answer.span is None else f" ({shares_text(condition.ranges, answer.span)})"
    typer.echo(f"{series.id}: {len(page.rows)} rows; {complete}{shares}", err=True)
    if page.next_cursor:
        typer.echo(f"more follow: raise --limit, or go on with --cursor {page.next_cursor}", err=True)
