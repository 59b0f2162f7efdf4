"""The service whose event loop can be stopped: SIGUSR1 lets it stand still for SECONDS, wherever it is.

`python -m tests.faults.stalled_loop SECONDS COMMAND…` becomes `data-manager COMMAND…`. The threads of the store go on.
"""

import signal
import sys
import time

from data_manager.cli import main

if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(seconds))
    main()
