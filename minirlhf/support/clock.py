"""Where a step's time goes: seconds by phase, and how long a process computes before it first waits for another."""

import time
from collections import defaultdict
from contextlib import contextmanager

_spent, _at = defaultdict(float), {"began": 0.0, "waits": None}


def begin():
    """A step begins."""
    _spent.clear()
    _at.update(began=time.perf_counter(), waits=None)


@contextmanager
def spent(phase):
    """Context manager, or decorator: what is in it belongs to a phase of the step."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _spent[phase] += time.perf_counter() - began


def waits():
    """Notes that this process waits for others now, if it is the first time in this step."""
    if _at["waits"] is None:
        _at["waits"] = time.perf_counter() - _at["began"]


def seconds():
    """{"seconds": since the step began, "sampling_seconds": ...} of the phases that there were."""
    return {"seconds": time.perf_counter() - _at["began"]} | {f"{name}_seconds": own for name, own in _spent.items()}


def before_waiting():
    """The seconds that this process computed before it first waited for another in this step."""
    waits()
    return _at["waits"]
