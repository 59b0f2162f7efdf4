"""The payload files: real and documented messages with what the decoder makes of each.

payloads/<variant>.jsonl
    1st line   {"market", "origin", "source"}    origin: recorded    a message of the recording named by source, byte for byte
                                                         enveloped   such a message in the publisher's envelope
                                                         documented  written after the documented shape; values made up
                                                         made        broken on purpose
    2nd line   the payload, byte for byte
    others     the outcomes, one per line
"""

from pathlib import Path
from typing import Any

import msgspec

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.domain.errors import Rejected
from data_manager.domain.events import Event, Ignored, Outcome

FOLDER = Path(__file__).parent / "payloads"
RECEIVED_MS = 1_760_963_697_000


class Sample(msgspec.Struct, frozen=True):
    """One payload file."""

    name: str
    market: str
    origin: str
    source: str | None
    payload: bytes
    outcomes: list[dict[str, Any]]

    def decoded(self, payload: bytes | None = None) -> list[dict[str, Any]]:
        """What the decoder of the sample's market makes of its payload, or of another."""
        payload = self.payload if payload is None else payload
        return [shown(outcome) for outcome in Decoder(self.market)(payload, RECEIVED_MS)]


def shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain JSON values."""
    if isinstance(outcome, Ignored):
        return {"ignored": outcome.reason}
    if isinstance(outcome, Rejected):
        return {"rejected": outcome.reason, "field": outcome.field, "message": str(outcome)}
    assert isinstance(outcome, Event)
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.structs.asdict(outcome)))
    return {"dataset": DATASET_OF[type(outcome)].name, **plain}


def load(path: Path) -> Sample:
    """The sample in a payload file."""
    about, payload, *outcomes = path.read_bytes().rstrip(b"\n").split(b"\n")
    head = msgspec.json.decode(about)
    return Sample(
        path.stem, head["market"], head["origin"], head.get("source"), payload, [*map(msgspec.json.decode, outcomes)]
    )


SAMPLES = [load(path) for path in sorted(FOLDER.glob("*.jsonl"))]
