"""What the kernel says of a running service."""

import re
from pathlib import Path

from tests.service import Service

MIB = 2**20


def peak_bytes(service: Service) -> int:
    """The most memory it ever had resident (VmHWM)."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    [kibibytes] = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kibibytes) * 1024
