"""Several functions at once, in processes that share the cores: small matrices keep few threads busy."""

import functools
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from multiprocessing import get_context, parent_process

import torch

from minirlhf.support.config import ignore_write_errors
from minirlhf.support.distributed import end_with
from minirlhf.support.errors import InputError
from minirlhf.support.folder import release


def at_once(*calls):
    """[function(*arguments) for function, *arguments in calls], side by side. They share the threads that this process
    would use, of which an OMP_NUM_THREADS may have left few."""
    threads = max(1, torch.get_num_threads() // min(len(calls), cores()))
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes that begin inherit this, and are deaf until _begin
    try:
        results = _workers().map(_work, range(len(calls)), repeat(threads), calls)
    finally:
        signal.signal(signal.SIGINT, heard)
    try:
        return list(results)
    except KeyboardInterrupt:
        for process in _workers()._processes.values():  # those that were deaf to it, too
            process.kill()
        raise
    except BrokenProcessPool:
        _workers.cache_clear()
        raise InputError("a process was killed (out of memory?); the same command goes on from here") from None


def cores():
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _workers():
    """The processes, kept for the next call: a new one takes seconds to import torch."""
    return ProcessPoolExecutor(cores(), get_context("spawn"), _begin)


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a process without a word; the parent has one
    ignore_write_errors()
    end_with(parent_process().pid)


def _work(position, threads, call):
    function, *arguments = call
    os.environ["TQDM_POSITION"] = str(position)  # a line of the terminal for each bar
    torch.set_num_threads(threads)
    try:
        return function(*arguments)
    finally:
        release()  # the next call for its folder may go to another process
