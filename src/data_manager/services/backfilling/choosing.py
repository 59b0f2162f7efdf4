"""What a plan is: who is asked for which part of what is wanted. How one is made is in services/planning.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from data_manager.domain.errors import DataManagerError
from data_manager.ports.source import Offer, Source, Wanted


class Step(NamedTuple):
    """Ask this source for that."""

    source: Source
    offer: Offer


Plan = Callable[[Sequence[Source], Wanted, int], Sequence[Step]]
"""Who may be asked, what is wanted, and now in; disjoint steps in order of time out, which need not cover it."""


class Failed(Exception):
    """A source raised cause on purpose, when it was asked for a step."""

    def __init__(self, source: Source, cause: DataManagerError) -> None:
        super().__init__(str(cause))
        self.source = source
        self.cause = cause
