"""Programs that we start and that must not outlive us, however we end."""

import os
import sys
from collections.abc import Sequence
from typing import Final

# Runs in the child, before it becomes the program: ask the kernel for SIGTERM when the parent dies (Linux's
# PR_SET_PDEATHSIG, 1), and leave at once if that has happened already.
_BECOME: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def tied(command: Sequence[str]) -> list[str]:
    """The command line that starts this one, as a child that the kernel asks to end when we do. Not so off Linux."""
    return [sys.executable, "-SEIc", _BECOME, str(os.getpid()), *command]
