"""Runs several functions at the same time in processes that share the cores: small matrices keep few threads busy."""

import functools
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

import torch

from minirlhf.support.config import ignore_write_errors
from minirlhf.support.distributed import end_with
from minirlhf.support.errors import InputError
from minirlhf.support.folder import release


def at_once(*calls):
    """[function(*arguments) for function, *arguments in calls], in parallel. They share the threads that this process
    would use (OMP_NUM_THREADS may limit them)."""
    threads = max(1, torch.get_num_threads() // min(len(calls), cores()))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # new processes inherit this and ignore SIGINT until _begin
    try:
        results = [_workers().submit(_work, i, threads, call) for i, call in enumerate(calls)]
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        return [result.result() for result in results]
    except KeyboardInterrupt:
        for process in _workers()._processes.values():  # also those that ignored SIGINT
            process.kill()
        raise
    except BrokenProcessPool:
        _workers.cache_clear()
        raise InputError("a process was killed (out of memory?); the same command goes on from here") from None


def cores():
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _workers():
    """The process pool, kept for the next call: a new process needs seconds to import torch."""
    return ProcessPoolExecutor(cores(), get_context("spawn"), _begin)


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker silently; the parent prints the message
    ignore_write_errors()
    end_with(parent_process().pid)


def _work(position, threads, call):
    function, *arguments = call
    os.environ["TQDM_POSITION"] = str(position)  # each progress bar has a line of the terminal
    torch.set_num_threads(threads)
    try:
        return function(*arguments)
    finally:
        release()  # the next call for its folder may go to another process
