"""A store that comes up after us: every promise of its port is passed on, and answered with Unavailable until then."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.clock import SystemClock
from data_manager.adapters.late import Late, late_metadata, late_rows
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.errors import Unavailable
from data_manager.ports import MetadataStore, SeriesStore


def promised(port: type) -> list[str]:
    """The names a port promises."""
    return [name for name in dir(port) if not name.startswith("_")]


async def never() -> Any:
    """A server that is away."""
    raise Unavailable("nobody listens there")


PORTS = [(late_rows, SeriesStore), (late_metadata, MetadataStore)]


@pytest.mark.parametrize(
    ("make", "port", "name"), [(make, port, name) for make, port in PORTS for name in promised(port) if name != "close"]
)
def test_whatever_the_port_promises_is_there_from_the_beginning(make: Any, port: type, name: str) -> None:
    late = make("rows", never)
    promise = inspect.getattr_static(port, name)
    if isinstance(promise, property):
        assert getattr(late, name) in ("rows", None, 0)
        return
    answer = getattr(late, name)
    assert inspect.iscoroutinefunction(answer) == inspect.iscoroutinefunction(promise)

    async def ask() -> None:
        answered = answer()
        if inspect.isawaitable(answered):
            await answered

    with pytest.raises(Unavailable, match="rows is not there yet"):
        asyncio.run(ask())


def test_what_no_port_promises_is_no_attribute() -> None:
    with pytest.raises(AttributeError):
        late_rows("rows", never).apend  # type: ignore[attr-defined] # noqa: B018


async def test_once_it_is_there_it_answers_for_itself(tmp_path: Path) -> None:
    failures = [Unavailable("nobody listens there"), None]

    async def open_it() -> SeriesStore:
        if failure := failures.pop(0):
            raise failure
        return EmbeddedStore(tmp_path, 1 << 20)

    store = late_rows("embedded", open_it)
    assert isinstance(store, Late)
    assert store.deletes_by_itself is None
    await store.appear(SystemClock())
    assert store.deletes_by_itself is False
    assert await store.series() == []
    await store.close()


async def test_who_asks_while_it_is_opened_for_the_first_time_waits_for_what_comes_of_that(tmp_path: Path) -> None:
    goes_on, answers = asyncio.Event(), [None, Unavailable("nobody listens there")]

    async def open_it() -> SeriesStore:
        await goes_on.wait()
        if failure := answers.pop():
            raise failure
        return EmbeddedStore(tmp_path, 1 << 20)

    store = late_rows("embedded", open_it)
    assert isinstance(store, Late)
    early = asyncio.create_task(store.series())  # begins before the opening does
    opening = asyncio.create_task(store.appear(SystemClock()))
    asyncio.get_running_loop().call_soon(goes_on.set)
    with pytest.raises(Unavailable, match="nobody listens there"):  # and not: not opened yet
        await early
    await opening
    assert await store.series() == []
    await store.close()
