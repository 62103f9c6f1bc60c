"""Runs a training script that is killed, or for which the disk is full.

    python tests/core/harmed.py train_sft DIE ROOM [flags of train_sft.py]

DIE: SIGKILL ends it in its n-th write of a state, written whole and not yet renamed. ROOM: its second state is the last
file for which there is room; from then on files can have so many bytes. 0 for neither.
"""

import importlib
import os
import resource
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from minirlhf.support import run  # noqa: E402
from minirlhf.support.config import command  # noqa: E402

script, die, room = importlib.import_module(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
replace, states = os.replace, 0


def watched(source, target):
    global states
    states += "state-" in str(target)
    if states and states == die:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if states == 2 and room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


os.replace = watched
run.draw_curves = lambda *args: None
sys.argv[1:4] = []
command(script.main, script.Config)
