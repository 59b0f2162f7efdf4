"""Work that is done again and again."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Again(NamedTuple):
    """Work, what to call it, and how many seconds lie between two times."""

    what: str
    seconds: float
    work: Callable[[], Awaitable[object]]
