"""Runs functions in processes that share the cores: several at the same time, or one training as data-parallel ranks.

Small matrices keep few threads busy. And the threads of one process wait for each other at every operation, a thousand
times a step, which on a busy machine takes for ever; ranks wait for each other once a step.
"""

import functools
import os
import signal
import socket
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process

import torch

from minirlhf.support.config import ignore_write_errors
from minirlhf.support.device import cores
from minirlhf.support.errors import InputError
from minirlhf.support.folder import release_locks
from minirlhf.support.processes import end_with, ignoring_ctrl_c

KILLED = "a process was killed (out of memory?); the same command goes on from here"


def at_once(*calls):
    """[function(*arguments) for function, *arguments in calls], in parallel. They share the threads that this process
    would use (OMP_NUM_THREADS may limit them)."""
    threads = max(1, torch.get_num_threads() // min(len(calls), cores()))
    with ignoring_ctrl_c():  # until _begin
        results = [_workers().submit(_work, i, threads, call) for i, call in enumerate(calls)]
    try:
        return [result.result() for result in results]
    except KeyboardInterrupt:
        for process in _workers()._processes.values():  # also those that ignored SIGINT
            process.kill()
        raise
    except BrokenProcessPool:
        _workers.cache_clear()
        raise InputError(KILLED) from None


def in_ranks(function, argument, n):
    """Runs function(argument) in n processes that torch.distributed connects, as torchrun would. An InputError of one
    is raised here."""
    threads = max(1, torch.get_num_threads() // n)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = get_context("spawn")
    errors, own = spawn.SimpleQueue(), []
    try:
        with ignoring_ctrl_c():  # until _begin
            for rank in range(n):
                own.append(spawn.Process(target=_rank, args=(rank, n, port, threads, errors, function, argument)))
                own[-1].start()
        while running := [process.sentinel for process in own if process.is_alive()]:
            connection.wait(running)
            if any(process.exitcode for process in own):
                break
        if any(process.exitcode for process in own):
            raise InputError(KILLED if errors.empty() else errors.get())
    finally:
        for process in own:
            process.kill()
            process.join()


def _rank(rank, n, port, threads, errors, function, argument):
    _begin()
    names = ("RANK", "LOCAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ |= dict.fromkeys(names[0], str(rank)) | dict.fromkeys(names[1], str(n))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    torch.set_num_threads(threads)
    try:
        function(argument)
    except InputError as error:
        errors.put(str(error))
        raise SystemExit(2) from None


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
        release_locks()  # the next call for its folder may go to another process
