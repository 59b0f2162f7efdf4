"""Answers kept for who asks the same again: good as long as the series they speak of has not changed.

Dashboards and strategies ask one question over and over, and most series change once a minute. An answer is kept
under the question as it came, letter for letter, with the version its series had before it was read, and that of what
the audits knew of it.
"""

from collections import OrderedDict
from typing import NamedTuple

from data_manager.api.routing import Reply
from data_manager.domain.dataset import Series

_ANSWER_BYTES_MAX = 1_048_576  # a larger one is sent once and forgotten

Question = tuple[str, bytes, bytes, bytes]
"""Path, query string, Accept, Accept-Encoding."""


class Kept(NamedTuple):
    """An answer, and what it was true of. version None: nobody can tell when it stops being true.

    known: the version of what the audits know of the series; until_ms: when time alone makes another answer.
    """

    series: Series
    version: int | None
    reply: Reply
    etag: bytes
    known: int
    until_ms: int | None


class AnswerCache:
    """The answers asked for last, up to bytes_max of bodies and questions."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[Question, Kept] = OrderedDict()

    def get(self, question: Question) -> Kept | None:
        """What was kept of that question; the caller compares the version."""
        kept = self._kept.get(question)
        if kept is not None:
            self._kept.move_to_end(question)
        return kept

    def put(self, question: Question, kept: Kept) -> None:
        """Keep an answer; the ones not asked for the longest make room."""
        size = _size(question, kept)
        if size > min(_ANSWER_BYTES_MAX, self._bytes_max):
            return
        before = self._kept.pop(question, None)
        if before is not None:
            self._bytes -= _size(question, before)
        self._kept[question] = kept
        self._bytes += size
        while self._bytes > self._bytes_max:
            self._bytes -= _size(*self._kept.popitem(last=False))


def _size(question: Question, kept: Kept) -> int:
    return len(kept.reply.body) + sum(map(len, question)) + 1_000
