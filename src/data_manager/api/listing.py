"""Lists, a part at a time: how one is asked for, and the shape it is answered in. The same on every route."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from data_manager.api.routing import asked_by
from data_manager.services.answering.query import OFFSET_MAX, whole

PART_MAX: Final = 1_000


class Pagination(BaseModel):
    """Which part of all that were asked for this is."""

    limit: int
    offset: int
    total: int
    has_more: bool


class Part(NamedTuple):
    """The part of a list that is asked for."""

    limit: int
    offset: int

    def listed(self, data: Sequence[Any], total: int) -> dict[str, Any]:
        """The part as it is answered. total: how many there are in all."""
        more = self.offset + len(data) < total
        return {"data": data, "pagination": {**self._asdict(), "total": total, "has_more": more}}


def part_of(given: Mapping[str, str], *, most: int = PART_MAX, default: int = 100) -> Part:
    """By the words limit and offset. Raises BadQuery."""
    return Part(whole(given, "limit", default, 1, most), whole(given, "offset", 0, 0, OFFSET_MAX))


def part_words(*, most: int = PART_MAX, default: int = 100) -> list[dict[str, Any]]:
    """The two words, as OpenAPI describes them."""
    return [
        asked_by("limit", default, type="integer", minimum=1, maximum=most, default=default),
        asked_by("offset", 0, type="integer", minimum=0, maximum=OFFSET_MAX, default=0),
    ]
