"""What a process does when the one that started it ends, or when Ctrl-C comes."""

import os
import signal
import threading
import time
from contextlib import contextmanager


def end_with(parent):
    """Ends this process soon after its parent, process `parent`, has ended: two runs must not write to one folder."""

    def wait_and_exit():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


@contextmanager
def ignoring_ctrl_c():
    """Context manager: processes that are started in it ignore SIGINT. The one that starts them says that it came."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
