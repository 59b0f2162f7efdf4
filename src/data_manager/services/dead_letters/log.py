"""What the log says of dead letters: one line per reason now and then, with how many and one of them. Never silent.

The first letter of a reason is told at the next look; from then on one line per interval says how many more came. So a
flood of garbage costs one line a minute, and the figures (metrics, GET /dead-letters) have every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from data_manager.ports import Clock, DeadLetter

_log = structlog.get_logger(__name__)
_SAMPLE_BYTES: Final = 120
_MESSAGE_MAX: Final = 240
_REASONS_MAX: Final = 64  # a closed vocabulary; this is only so that nothing here can grow


class DeadLetterLog:
    """Hears of every letter that was kept, and tells of them. Call tell() about once a second."""

    def __init__(self, evicted: Callable[[], int], clock: Clock, *, interval_s: float = 60.0) -> None:
        """evicted: how many letters had to make room so far."""
        self._evicted = evicted
        self._clock = clock
        self._interval_s = interval_s
        self._news: dict[str, tuple[int, DeadLetter]] = {}  # reason -> how many since it was last told, the newest
        self._told_s: dict[str, float] = {}
        self._told_evicted = 0

    def kept(self, letters: Sequence[DeadLetter]) -> None:
        """These are in the store."""
        for letter in letters:
            count, _ = self._news.get(letter.reason, (0, letter))
            if count or len(self._news) < _REASONS_MAX:
                self._news[letter.reason] = (count + 1, letter)

    def tell(self, *, everything: bool = False) -> None:
        """Write the lines that are due; with everything, whatever was not told yet: before the process ends."""
        now_s = self._clock.monotonic_s()
        for reason, (count, newest) in list(self._news.items()):
            if everything or self._due(reason, now_s):
                _log.warning("dead letters", count=count, reason=reason, **_shown(newest))
                del self._news[reason]
                self._told_s[reason] = now_s
        evicted = self._evicted()
        if evicted > self._told_evicted and (everything or self._due("", now_s)):
            _log.error("dead letters were let go for want of room", count=evicted - self._told_evicted)
            self._told_evicted, self._told_s[""] = evicted, now_s

    def _due(self, reason: str, now_s: float) -> bool:
        told_s = self._told_s.get(reason)
        return told_s is None or now_s - told_s >= self._interval_s


def _shown(letter: DeadLetter) -> dict[str, object]:
    begins = letter.payload[:_SAMPLE_BYTES].decode("utf-8", "backslashreplace")
    return {
        "field": letter.field,
        "message": letter.message[:_MESSAGE_MAX],
        "subject": letter.subject,
        "begins": begins,
        "payload_bytes": len(letter.payload),
    }
