"""A quick `python` for tests: programs are forked from a process that has imported torch, which takes others seconds.

    subprocess.run([*PYTHON, "train_sft.py", "--help"])   instead of   subprocess.run([sys.executable, ...])

What PYTHON starts is a small client. It hands its words, environment, folder and open files to a server, which forks a
process that runs the program. The client passes signals on, and ends as the program does. A program that is to begin
in a fresh interpreter (other packages, threads, or a signal while it imports) needs sys.executable.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = "SERVER_OF_FORKED_PROGRAMS"  # an environment variable: the socket's path
# signals for a program, and those by which its client is told
PASSED_ON = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGKILL: signal.SIGUSR1}
LOADED = ("torch._dynamo", "torch.distributed.launcher", "reproduce", "train_ppo", "pretrain", "tiny")


class Python:
    """The words that stand for `python`. The first use starts the server, which ends with this process and serves its
    children, too."""

    def __iter__(self):
        if not hasattr(os, "fork"):
            return iter([sys.executable])
        if SERVER not in os.environ:
            self.folder = tempfile.TemporaryDirectory()
            os.environ[SERVER] = path = os.path.join(self.folder.name, "server")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(100)
                words = [sys.executable, __file__, "serve", str(listener.fileno())]
                self.server = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        return iter([sys.executable, "-S", "-E", __file__, os.environ[SERVER]])


PYTHON = Python()


def kill(process):
    """SIGKILL for what PYTHON started, which is gone when this returns. Process.kill would only reach the client, and
    the program some milliseconds later. Returns whether there was still something to kill."""
    process.send_signal(PASSED_ON[signal.SIGKILL])
    return process.wait() in (-signal.SIGKILL, -PASSED_ON[signal.SIGKILL])


# --- the client ------------------------------------------------------------------------------------------------------


def client(path, words):
    """Has the server run a program, and ends as it does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON.values())  # until there is a process to pass them on to
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        asked = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
        opened = [fd for fd in (0, 1, 2) if is_open(fd)]
        socket.send_fds(server, [len(asked).to_bytes(4, "big") + bytes(opened).ljust(3, b"\xff")], opened)
        server.sendall(asked)
        pid = int(server.recv(20))
        for wanted, number in PASSED_ON.items():
            signal.signal(number, lambda *args, wanted=wanted: os.kill(pid, wanted))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON.values())
        status = int(server.recv(20) or -signal.SIGKILL)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- the server ------------------------------------------------------------------------------------------------------


def serve(listener):
    """Imports what programs need; then forks one for each client, until the process that started it has ended."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in LOADED:
        __import__(name)
    sys.path[:2] = []
    gc.freeze()  # forked processes share this memory as long as nobody collects garbage in it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    while select.select([listener, 0], [], [])[0] == [listener]:  # not its standard input, which has ended
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return attend(connection)
        connection.close()


def attend(connection):
    """Forks the program, tells its client how it ends, and kills it when the client is killed."""
    head, files, *_ = socket.recv_fds(connection, 7, 3)
    left, asked = int.from_bytes(head[:4], "big"), b""
    while len(asked) < left:
        asked += connection.recv(left - len(asked))
    words, folder, environment = json.loads(asked)
    pid = os.fork()
    if pid == 0:
        connection.close()
        for fd in (0, 1, 2):
            os.close(fd)
        for fd, file in zip(head[4:], files):
            os.dup2(file, fd)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
            buffering = 1 if name == "stderr" else -1
            setattr(sys, name, open(fd, mode, buffering, encoding="utf-8", closefd=False) if is_open(fd) else None)
        return finish(words)
    connection.sendall(b"%d" % pid)
    for file in files:
        os.close(file)
    connection.setblocking(False)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            connection.setblocking(True)
            connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        try:
            if not connection.recv(1):
                os.kill(pid, signal.SIGKILL)
                os._exit(0)
        except BlockingIOError:
            time.sleep(0.005)


def finish(words):
    """Runs the program and ends without the destruction of all that was imported, which takes longer than most."""
    status = 0
    try:
        run(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        status = 1
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)


def run(words):
    """Does what `python` does with these words."""
    sys.argv = words[1:] if words[0] in ("-m", "-c") else words
    if words[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[0], sys.argv[0] = "", "-c"
        exec(words[1], vars(sys.modules["__main__"]))
    else:
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        client(sys.argv[1], sys.argv[2:])
