"""The service on a machine whose resolver of names does not answer: `python -m tests.flow.deaf_resolver COMMAND…`."""

import socket
import time
from typing import Any

from data_manager.cli import main

_getaddrinfo = socket.getaddrinfo


def deaf(host: Any, *arguments: Any, **more: Any) -> Any:
    """Half a minute for a name of the outside, as without a network."""
    if str(host).endswith(".invalid"):
        time.sleep(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *arguments, **more)


if __name__ == "__main__":
    socket.getaddrinfo = deaf
    main()
