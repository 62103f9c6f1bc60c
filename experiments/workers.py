"""Several functions at once, in processes that share the cores: small matrices keep few threads busy."""

import functools
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from multiprocessing import get_context, parent_process, resource_tracker

import torch

from minirlhf.config import InputError, be_patient
from minirlhf.distributed import end_with
from minirlhf.files import release


def at_once(*calls):
    """[function(*arguments) for function, *arguments in calls], side by side. They share the threads that this process
    would use, of which an OMP_NUM_THREADS may have left few."""
    threads = max(1, torch.get_num_threads() // min(len(calls), cores()))
    try:
        _hear(False)  # processes that begin inherit this, and are deaf until _begin
        try:
            results = _workers().map(_work, range(len(calls)), repeat(threads), calls)
        finally:
            _hear(True)  # now of one that came meanwhile, too
        return list(results)
    except KeyboardInterrupt:
        for process in _workers()._processes.values():  # those that were deaf to it, too
            process.kill()
        raise
    except BrokenProcessPool:
        _workers.cache_clear()
        raise InputError("a process was killed (out of memory?); the same command goes on from here") from None


def _hear(whether):
    """Whether Ctrl-C is heard of at once, or later. (Windows knows no later.)"""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # it would hear again when it starts, with the first process
        signal.pthread_sigmask(signal.SIG_UNBLOCK if whether else signal.SIG_BLOCK, {signal.SIGINT})


def cores():
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _workers():
    """The processes, kept for the next call: a new one takes seconds to import torch."""
    return ProcessPoolExecutor(cores(), get_context("spawn"), _begin)


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # forgets one that came meanwhile
    _hear(True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a process without a word; the parent has one
    be_patient()
    end_with(parent_process().pid)


def _work(position, threads, call):
    function, *arguments = call
    os.environ["TQDM_POSITION"] = str(position)  # a line of the terminal for each bar
    torch.set_num_threads(threads)
    try:
        return function(*arguments)
    finally:
        release()  # the next call for its folder may go to another process
