"""Answers and refusals of the REST interface, and how the venue words its errors."""

import gzip
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from data_manager.simulator.contracts import Contract

_WORTH_PACKING: Final = 1_024


class Refused(Exception):  # it is an answer, not a defect
    """The request gets this status and {"code", "msg"}, or a page of HTML; headers come on top."""

    def __init__(
        self, status: int, code: int, message: str, headers: Mapping[str, str] | None = None, page: bytes | None = None
    ) -> None:
        super().__init__(message)
        self.page = page
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


class Raw(Struct, frozen=True, kw_only=True):
    """An answer as it goes out. promised: Content-Length when it is not the body's, which cuts the connection off."""

    status: int = 200
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    media: str = "application/json;charset=UTF-8"
    promised: int | None = None


def packed(raw: Raw, accepted: str) -> Raw:
    """The answer compressed, where that is asked for and worth it."""
    if "gzip" not in accepted or len(raw.body) < _WORTH_PACKING or raw.promised is not None:
        return raw
    return replace(raw, body=gzip.compress(raw.body, 1), headers=raw.headers | {"Content-Encoding": "gzip"})


def decimal(value: int, digits: int) -> str:
    """value * 10**-digits, all digits written out."""
    if digits == 0:
        return str(value)
    sign, value = ("-", -value) if value < 0 else ("", value)
    scale = 10**digits
    return f"{sign}{value // scale}.{value % scale:0{digits}d}"


class Units(Struct, frozen=True):
    """How the numbers of a contract are written."""

    price: int
    quantity: int

    @staticmethod
    def of(contract: Contract) -> "Units":
        return Units(contract.price_precision, contract.quantity_precision)

    @property
    def quote(self) -> int:
        return self.price + self.quantity


FORBIDDEN = b"""<HTML><HEAD><TITLE>ERROR: The request could not be satisfied</TITLE></HEAD>
<BODY><H1>403 ERROR</H1><P>Request blocked by the simulator, as a web application firewall would.</P></BODY></HTML>
"""
RESTRICTED = (
    "Service unavailable from a restricted location according to 'b. Eligibility' in "
    "https://www.binance.com/en/terms. "
    "Please contact customer service if you believe you received this message in error."
)
UNAVAILABLE = {
    "unknown": (-1000, "Unknown error, please check your request or try again later."),
    "down": (0, "Service Unavailable."),
    "throttled": (-1008, "Request throttled by system-level protection."),
}
