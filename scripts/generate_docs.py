"""Writes what is made from the code: docs/settings.md, docs/datasets.md, .env.example. A test fails when they drift."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_manager.domain.dataset import Dataset, Field
from data_manager.domain.datasets import DATASETS
from data_manager.domain.holes.continuity import Continuity
from data_manager.settings import SettingRow, Settings, describe

ROOT = Path(__file__).resolve().parents[1]
MADE_BY = "<!-- Made by `make docs` from the code. Do not edit. -->"


def generated() -> dict[Path, str]:
    """The files, by their path from the root of the repository."""
    return {
        Path("docs/settings.md"): settings_page(),
        Path("docs/datasets.md"): datasets_page(),
        Path(".env.example"): env_example(),
    }


def settings_page() -> str:
    """Every setting as a table."""
    rows = [(f"`{row.name}`", row.meaning, _default(row), _valid(row)) for row in describe(Settings(), {})]
    return _page(
        "Settings",
        "Environment variables, read once at the start. An empty variable counts as unset. `data-manager config` "
        "prints what is in force. A value that cannot be used stops the start; the message says what would be valid.",
        _table(("variable", "meaning", "default", "valid"), rows),
    )


def _default(row: SettingRow) -> str:
    unit = f" {row.unit}" if row.unit not in ("", "port") else ""
    return row.default.strip("()") if row.default.startswith("(unset") else f"`{row.default}`{unit}"


def _valid(row: SettingRow) -> str:
    return row.valid.replace("|", "\\|")


def datasets_page() -> str:
    """Every dataset as a table, then its columns."""
    rows = [
        (
            f"[`{one.name}`](#{one.name})", f"`/data/{one.path}`", " + ".join(f"`{part}`" for part in one.key),
            _hole(one.continuity), one.on_conflict.value, ", ".join(one.refill) or "nobody", _kept(one),
        )
        for one in DATASETS.values()
    ]  # fmt: skip
    heads = ("dataset", "path", "key", "a hole is", "keeps", "can be mended by", "retention")
    sections = [line for one in DATASETS.values() for line in _columns(one)]
    return _page(
        "Datasets",
        "What is stored, declared once in `src/data_manager/domain/datasets.py`. A series is market, dataset, symbol "
        "and, where the dataset has one, interval: `um.candle.BTCUSDT.1h`. The key is unique inside a series. When a "
        "row arrives whose key is held, `first` keeps the held one, and `final` lets history replace what came live.",
        [*_table(heads, rows), *sections],
    )


def _hole(continuity: Continuity) -> str:
    meaning = (type(continuity).__doc__ or "").partition("\n")[0].rstrip(".")
    return f"{type(continuity).__name__}: {meaning}"


def _kept(dataset: Dataset) -> str:
    match dataset.retention_days:
        case None:
            return "for ever"
        case int(days):
            return f"{days} day{'s' if days > 1 else ''}"
        case by_interval:
            return ", ".join(f"{interval} {days} d" for interval, days in by_interval.items())


def _columns(dataset: Dataset) -> Iterator[str]:
    yield from ("", f"## {dataset.name}", "", f"{dataset.description} Time of a query: `{dataset.time}`.", "")
    alias = {answer.column: answer.name for answer in dataset.answer}
    rows = [
        (f"`{field.name}`", _kind(field), f"`{alias[field.name]}`" if field.name in alias else "")
        for field in dataset.fields
    ]
    yield from _table(("column", "kind", "in an answer"), rows)


def _kind(field: Field) -> str:
    return f"{field.kind.value}, may be absent" if field.optional else field.kind.value


def env_example() -> str:
    """Every setting as a commented-out line with its default."""
    lines = [
        "# Made by `make docs` from the code. Copy to .env and change what you need; `make run` reads it.",
        "# Every line below shows the default.",
    ]
    for row in describe(Settings(), {}):
        unit = f" In {row.unit}." if row.unit not in ("", "port") else ""
        value = "" if row.default.startswith("(unset") else row.default
        lines += ["", f"# {row.meaning}{unit}", f"#{row.name}={value}"]
    return "\n".join(lines) + "\n"


def _page(title: str, lead: str, body: Sequence[str]) -> str:
    return "\n".join([MADE_BY, "", f"# {title}", "", lead, "", *body]) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")
