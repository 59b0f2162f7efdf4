"""Parameters of a request as the venue reads them, what it says of wrong ones, and what they make a request cost."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from data_manager.simulator.answers import Refused

Params = Mapping[str, str]

DEPTH_WEIGHTS: Final = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1_000: 20}
"""What a book costs by its levels; there are no others."""

_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)


def number(params: Params, name: str) -> int | None:
    """A parameter that is a whole number. Raises Refused."""
    text = params.get(name)
    if text is None:
        return None
    if text == "":
        raise Refused(400, -1105, f"Parameter '{name}' was empty.")
    if not _DIGITS.fullmatch(text):
        message = f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        raise Refused(400, -1100, message)
    return int(text)


def span(params: Params) -> tuple[int | None, int | None]:
    """startTime and endTime. Raises Refused where they contradict one another."""
    start_ms, end_ms = number(params, "startTime"), number(params, "endTime")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise Refused(400, -1023, "Start time is greater than end time.")
    return start_ms, end_ms


def mandatory(name: str) -> Refused:
    return Refused(400, -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def no_depth(limit: int | None) -> Refused:
    return Refused(400, -4021, f"{limit} is not valid depth limit")


def recent(days: int) -> Refused:
    return Refused(400, -4166, f"Search window is restricted to recent {days} days only.")


# --- what it costs


def kline_weight(params: Params) -> int:
    """By the measured edges; what is no number is refused later and costs the least."""
    text = params.get("limit")
    if text is None:
        return 5
    limit = int(text) if _DIGITS.fullmatch(text) else 0
    return next(weight for edge, weight in ((100, 1), (500, 2), (1_000, 5), (1 << 70, 10)) if limit <= edge)


def depth_weight(params: Params) -> int:
    text = params.get("limit")
    return 1 if text is None else DEPTH_WEIGHTS.get(int(text) if _DIGITS.fullmatch(text) else 0, 1)


def fixed(weight: int) -> Callable[[Params], int]:
    return lambda _: weight


def by_symbol(one: int, every: int) -> Callable[[Params], int]:
    return lambda params: one if params.get("symbol") else every
