"""A run's folder: it belongs to one run, whose flags and input files it remembers, and to one process at a time."""

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

from .errors import require, reraise
from .files import HALF, disk_errors, read_json, write_json

LOCK = ".lock"  # says who is at work in a folder
_locks = {}  # folder -> its lock file, open for as long as this process holds it


def lock_output(config, ignore=()):
    """Makes the folder config.out that of the run which the dataclass `config` describes, and keeps it so.

    Refuses a folder in which another process is at work; that holds another run, or this one on files that have changed
    since; or files that are no run's. Flags in `ignore` may differ.
    """
    out, settings = Path(config.out), json.loads(json.dumps(asdict(config)))
    settings = {name: value for name, value in settings.items() if name not in ignore}
    read = {name: _digest(value) for name, value in settings.items() if name != "out"}
    with disk_errors(f"--out {out}"):
        require(not any(parent.is_file() for parent in (out, *out.parents)), f"--out {out}: a file is in the way")
        _check(out, settings, read, ignore)
        lock(out)
        _check(out, settings, read, ignore)  # again: another process may have been quicker
    for half in out.glob(f".*{HALF}"):  # a process was killed while it wrote
        half.unlink()
    write_json(out / "config.json", settings | {"read": {name: digest for name, digest in read.items() if digest}})


def _check(out, settings, read, ignore):
    """Refuses a folder that is not this run's to have."""
    if not (out / "config.json").exists():
        strange = out.exists() and any(path.suffix != HALF and path.name != LOCK for path in out.iterdir())
        require(not strange, f"--out {out} is not empty and no run's; choose another --out")
        return
    with reraise(f"{out}/config.json: not a run's; put it back, or choose another --out"):
        other = {name: value for name, value in read_json(out / "config.json").items() if name not in ignore}
        before = {} | other.pop("read", {})
        names = sorted(settings.keys() | other.keys())
        differing = [k for k in names if _spelled(settings.get(k)) != _spelled(other.get(k))]
    flags = ", ".join(f"--{k} was {other.get(k)}, now {settings.get(k)}" for k in differing)
    require(not differing, f"--out {out} holds another run ({flags}); choose another --out")
    for name, digest in before.items():
        same, words = read.get(name, digest) == digest, settings.get(name)
        what = f"--{name} {' '.join(words) if isinstance(words, list) else words}"
        require(same, f"{what} has changed since --out {out} was begun; put it back, or choose another --out")


def _spelled(value):
    """A flag's value as it is compared: a path may be spelled in many ways."""
    return [os.path.realpath(str(word)) for word in (value if isinstance(value, list) else [value])]


def _digest(value):
    """SHA-256 of what a flag names, as text: of files, or of folders with a model and a tokenizer, or with data; empty
    for none of them."""
    digest = hashlib.sha256()
    paths = [Path(word) for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)]
    inside = [part for path in paths if path.is_dir() for part in _that_matter(sorted(path.iterdir()))]
    parts = [path for path in paths + inside if path.is_file()]
    for part in parts:
        with reraise(f"{part}: cannot be read"), open(part, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if parts else ""


def _that_matter(files):
    """Of the files in a folder those of a model; where it is none's, data."""
    files = [file for file in files if not file.name.startswith("state-")]
    model = [file for file in files if file.suffix in (".pt", ".json", ".txt", ".tiktoken", ".safetensors")]
    return model or [file for file in files if file.suffix in (".jsonl", ".gz", ".parquet")]


def lock(folder, name=LOCK):
    """Makes a folder and keeps other processes out of it, until this one ends or calls release(). With another name the
    lock is not on the folder, but on what is so named."""
    key = os.path.realpath(Path(folder) / name)
    if key in _locks:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = open(Path(folder) / name, "a+")
    until = time.monotonic() + 3  # a process that was killed may need a moment to end
    while not (free := _free(file)) and time.monotonic() < until:
        time.sleep(0.1)
    file.seek(0)
    require(free, f"--out {folder}: {file.read()} is at work in it; wait for its end, or choose another --out")
    file.truncate(0)
    print(f"process {os.getpid()} on {platform.node()}", end="", file=file, flush=True)
    _locks[key] = file


def _free(file):
    """Locks a file unless another process has. (Windows and some file systems know no such locks.)"""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        return not isinstance(error, BlockingIOError)
    return True


def release():
    """Lets go of all folders: the files that held them are closed."""
    _locks.clear()
