"""Steps of migrations, each of which may find itself done already.

MySQL commits every statement that makes or changes a table, so a killed migration leaves some of its steps done and no
note of it. And a database the predecessor used has tables of some of our names. Both are met the same way: what is
there stays, what it lacks is added, and what cannot be ours is named.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings

import sqlalchemy as sa
from alembic import op

from data_manager.adapters.meta.failures import Refused

MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}

Indexes = Mapping[str, Sequence[str]]


def make_table(name: str, columns: Sequence[sa.Column[Any]], *, indexes: Indexes, unique: Iterable[str] = ()) -> None:
    """The table as given; one that is there keeps its rows and gets the columns and indexes it lacks.

    An index of the same name on other columns makes way: the predecessor had some. unique names the indexes that forbid
    the same twice. Raises Refused where a table of that name cannot become ours.
    """
    if _look().has_table(name):
        _adopt(name, columns)
    else:
        op.create_table(name, *columns, **MYSQL)
    held = {index["name"]: index["column_names"] for index in _look().get_indexes(name)}
    for index, of in indexes.items():
        if held.get(index) == list(of):
            continue
        if index in held:
            op.drop_index(index, name)
        op.create_index(index, name, list(of), unique=index in unique)


def drop_table(name: str) -> None:
    """No table of that name, whether there was one or not."""
    if _look().has_table(name):
        op.drop_table(name)


def add_column(name: str, column: sa.Column[Any]) -> None:
    """The column in the table, made unless it is there."""
    if column.name not in _columns(name):
        op.add_column(name, column)


def drop_column(name: str, column: str) -> None:
    """The table without that column, whether it had it or not."""
    if column in _columns(name):
        op.drop_column(name, column)


def add_index(index: str, name: str, of: Sequence[str]) -> None:
    """The index on the table, made unless it is there."""
    if index not in {held["name"] for held in _look().get_indexes(name)}:
        op.create_index(index, name, list(of))


def drop_index(index: str, name: str) -> None:
    """The table without that index, whether it had it or not."""
    if index in {held["name"] for held in _look().get_indexes(name)}:
        op.drop_index(index, name)


def unmake_table(name: str, *, ours: Sequence[str], indexes: Iterable[str] = ()) -> None:
    """Undo make_table. A table that holds rows stays: it loses only these columns of ours and these indexes."""
    if not _look().has_table(name):
        return
    if op.get_bind().scalar(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)) is None:
        op.drop_table(name)
        return
    held = {index["name"] for index in _look().get_indexes(name)}
    for index in indexes:
        if index in held:
            op.drop_index(index, name)
    for column in ours:
        if column in _columns(name):
            op.drop_column(name, column)


def _look() -> sa.Inspector:
    return sa.inspect(op.get_bind())  # a new one each time: it remembers what it saw


def _columns(name: str) -> dict[str, Any]:
    return {column["name"]: column for column in _look().get_columns(name)}


def _adopt(name: str, columns: Sequence[sa.Column[Any]]) -> None:
    held = _columns(name)
    foreign = [column.name for column in columns if column.name not in held and not column.nullable]
    if foreign:
        fix = "it is not ours: rename it, or name another database"
        raise Refused(f"metadata database: its table {name} lacks the column {foreign[0]}: {fix}")
    if op.get_bind().dialect.name == "mysql":
        with _zero_dates():
            _convert(name)
            _widen(name, columns, held)
    for column in columns:
        if column.name not in held:
            op.add_column(name, column)


@contextmanager
def _zero_dates() -> Iterator[None]:
    """Within, rows without a date keep their 0000-00-00: the predecessor's INSERT IGNORE left many such jobs."""
    mode = op.get_bind().scalar(sa.text("SELECT @@SESSION.sql_mode"))
    try:
        with catch_warnings(action="ignore"):  # MySQL would rather not have the two told apart
            op.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
        yield
    finally:
        op.execute(f"SET SESSION sql_mode = '{mode}'")


def _convert(name: str) -> None:
    """To the engine that keeps what was committed, and to the collation that tells letters apart."""
    asked = "SELECT engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"
    row = op.get_bind().execute(sa.text(f"{asked} AND table_name = :name"), {"name": name}).one()
    if row[0] != MYSQL["mysql_engine"]:
        op.execute(f"ALTER TABLE `{name}` ENGINE = {MYSQL['mysql_engine']}")
    if row[1] != MYSQL["mysql_collate"]:
        op.execute(f"ALTER TABLE `{name}` CONVERT TO CHARACTER SET utf8mb4 COLLATE {MYSQL['mysql_collate']}")


def _widen(name: str, columns: Sequence[sa.Column[Any]], held: Mapping[str, Any]) -> None:
    """Where a text of ours would not fit into the column that is there: too short, or an ENUM of fewer words."""
    for column in columns:
        if column.name not in held or not isinstance(column.type, sa.String) or column.type.length is None:
            continue
        there = held[column.name]["type"]
        if isinstance(there, sa.Enum) or (getattr(there, "length", None) or column.type.length) < column.type.length:
            op.alter_column(name, column.name, type_=column.type, existing_nullable=held[column.name]["nullable"])
