"""A message as programs read it, whichever way it leaves."""

from typing import Any, Final

from data_manager.domain.alert import Message
from data_manager.domain.time import iso

SOURCE: Final = "petrosa-data-manager"


def facts_of(message: Message, environment: str) -> dict[str, Any]:
    """What is said. id is the same when a message comes twice: let go of the second."""
    return {
        "id": message.id,
        "event": message.event,
        "severity": message.severity,
        "kind": message.kind,
        "series": message.series,
        "stream": message.stream,
        "text": message.text,
        "count": message.count,
        "since": None if message.since_ms is None else iso(message.since_ms),
        "at": iso(message.at_ms),
        "evidence": message.evidence,
        "alert": message.alert,
        "source": SOURCE,
        "environment": environment,
    }
