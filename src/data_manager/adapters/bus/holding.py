"""Deliveries that stay in hand for long: a word to the server now and then, so that it does not deliver them again.

    handed over ── ack_wait_s / 3 ──> +WPI ── ack_wait_s / 3 ──> +WPI ── … ── acknowledged, or held for too long

A store that is slow or away for longer than ack_wait_s would have everything in hand come again, and again each time
that passes. A process that is dead or frozen says nothing, and another replica gets its messages as soon as before. Nor
does a hold last for ever: the way from another replica to the store may be better than ours.
"""

from collections.abc import Iterable
from typing import Final

IN_PROGRESS: Final = b"+WPI"

_WORDS_PER_WAIT: Final = 3
_WAITS_MAX: Final = 10  # so many times ack_wait_s a delivery is held


class Holding:
    """Knows since when deliveries are in hand, counted in turns of interval_s."""

    def __init__(self, ack_wait_s: float) -> None:
        self.interval_s = ack_wait_s / _WORDS_PER_WAIT
        self._turns: dict[str, int] = {}

    def due(self, in_hand: Iterable[str]) -> list[str]:
        """The tokens a word is due for. Call it every interval_s."""
        before = self._turns
        self._turns = {token: before.get(token, -1) + 1 for token in in_hand}
        return [token for token, turns in self._turns.items() if 0 < turns < _WAITS_MAX * _WORDS_PER_WAIT]
