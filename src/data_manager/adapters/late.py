"""Servers may come up in any order: a store that is not there yet, and is asked for again and again until it is.

not there ── open: Unavailable ──> not there (every question raises Unavailable, with the reason)
    │
    └────── open: a store ──────> there: every question goes to it
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

import structlog

from data_manager.domain.errors import Unavailable
from data_manager.ports import Clock, MetadataStore, SeriesStore

_log = structlog.get_logger(__name__)
_WAIT_S, _WAIT_MAX_S = 0.2, 5.0
_FIRST_S = 2.0  # so long at most a question waits for the first attempt to open what it is for


class _Closes(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closes)


def late_rows(kind: str, open_it: Callable[[], Awaitable[SeriesStore]]) -> SeriesStore:
    """A SeriesStore that may come up after us."""
    meanwhile = {"kind": kind, "deletes_by_itself": None}
    return cast("SeriesStore", Late[SeriesStore](kind, open_it, SeriesStore, meanwhile))


def late_metadata(what: str, open_it: Callable[[], Awaitable[MetadataStore]]) -> MetadataStore:
    """A MetadataStore that may come up after us."""
    return cast("MetadataStore", Late[MetadataStore](what, open_it, MetadataStore, {"dead_evicted": 0}))


class Late(Generic[T]):
    """Something that is opened as soon as it can be, and until then stands in for itself.

    It has the methods that its port promises; each is looked up when it is called.
    """

    def __init__(
        self, what: str, open_it: Callable[[], Awaitable[T]], promises: type, meanwhile: Mapping[str, Any]
    ) -> None:
        """promises: its port. meanwhile: the values of its properties while it is not there."""
        self._what = what
        self._open = open_it
        self._promises = promises
        self._meanwhile = meanwhile
        self._there: T | None = None
        self._first: list[Callable[[T], Awaitable[None]]] = []
        self._reason = "not opened yet"
        self._tried: asyncio.Event | None = None  # set when the first attempt is over; None: it has not begun

    def __getattr__(self, name: str) -> Any:
        """What the port promises under that name. AttributeError for anything else."""
        promised = inspect.getattr_static(self._promises, name)
        if isinstance(promised, property):
            return self._meanwhile[name] if self._there is None else getattr(self._there, name)

        def ask(*args: Any, **named: Any) -> Any:
            return getattr(self.it, name)(*args, **named)

        async def ask_and_wait(*args: Any, **named: Any) -> Any:
            if self._there is None:
                await self._first_attempt()
            return await getattr(self.it, name)(*args, **named)

        return ask_and_wait if inspect.iscoroutinefunction(promised) else ask

    async def _first_attempt(self) -> None:
        """At a start where all is well nobody is told that it is away."""
        await asyncio.sleep(0)  # who opens it begins together with those who ask
        if self._tried is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_S):
                    await self._tried.wait()

    def before_others(self, use: Callable[[T], Awaitable[None]]) -> None:
        """use has it to itself as soon as it is opened. When that raises Unavailable, it is opened again."""
        self._first.append(use)

    async def appear(self, clock: Clock) -> None:
        """Return when it is there. Raises what opening raises, but for Unavailable: then it is tried again."""
        wait_s, self._tried = _WAIT_S, asyncio.Event()
        while self._there is None:
            try:
                self._there = await self._opened()
            except Unavailable as error:
                if self._reason != str(error):
                    _log.warning("not there yet", what=self._what, reason=str(error))
                self._reason = str(error)
                self._tried.set()
                await clock.sleep(wait_s)
                wait_s = min(2 * wait_s, _WAIT_MAX_S)
        self._tried.set()

    async def _opened(self) -> T:
        it = await self._open()
        try:
            for use in self._first:
                await use(it)
        except BaseException:
            await it.close()
            raise
        return it

    @property
    def it(self) -> T:
        """It. Raises Unavailable while it is not there."""
        if self._there is None:
            raise Unavailable(f"{self._what} is not there yet: {self._reason}")
        return self._there

    async def close(self) -> None:
        """Close it, if it ever came."""
        if self._there is not None:
            await self._there.close()
