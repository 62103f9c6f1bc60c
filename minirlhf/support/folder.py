"""A run's folder belongs to one run, whose flags and input files it records, and to one process at a time."""

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

from .errors import InputError, require, reraise
from .files import HALF, disk_errors, read_json, write_json

LOCK = ".lock"  # names the process that uses a folder
PATIENCE = 3  # seconds that lock() waits: a killed process may need a moment to end
_locks = {}  # path of a lock file -> the file, open for as long as this process holds the lock


def lock_output(config, ignore=()):
    """Locks the folder config.out for the run that the dataclass `config` describes, and writes its config.json. Raises
    InputError if another process uses the folder, if it holds another run or other files, or if the files that flags
    name have changed since the run was begun. Flags in `ignore` may differ."""
    out, flags = Path(config.out), json.loads(json.dumps(asdict(config)))
    flags = {name: value for name, value in flags.items() if name not in ignore}
    hashes = {name: hash_of_files(value) for name, value in flags.items() if name != "out"}
    with disk_errors(f"--out {out}"):
        require(not any(parent.is_file() for parent in (out, *out.parents)), f"--out {out}: a file is in the way")
        check_owner(out, flags, hashes, ignore)
        lock(out)
        check_owner(out, flags, hashes, ignore)  # another process may have written to it in between
    for half in out.glob(f".*{HALF}"):  # of a process that was killed while it wrote
        half.unlink()
    write_json(out / "config.json", flags | {"read": {name: value for name, value in hashes.items() if value}})


def check_owner(out, flags, hashes, ignore):
    """Raises InputError if the folder holds anything but this run."""
    if not (out / "config.json").exists():
        if out.exists() and any(path.suffix != HALF and path.name != LOCK for path in out.iterdir()):
            raise InputError(f"--out {out} is not empty and no run's; choose another --out")
        return
    with reraise(f"{out}/config.json: not a run's; put it back, or choose another --out"):
        other = {name: value for name, value in read_json(out / "config.json").items() if name not in ignore}
        other_hashes = other.pop("read", {}).items()
        names = sorted(flags.keys() | other.keys())
        differing = [name for name in names if real_paths(flags.get(name)) != real_paths(other.get(name))]
    if differing:
        changes = ", ".join(f"--{name} was {other.get(name)}, now {flags.get(name)}" for name in differing)
        raise InputError(f"--out {out} holds another run ({changes}); choose another --out")
    for name, value in other_hashes:
        if hashes.get(name, value) != value:
            flag = f"--{name} {' '.join(map(str, as_list(flags.get(name))))}"
            raise InputError(f"{flag} has changed since --out {out} was begun; put it back, or choose another --out")


def as_list(value):
    return value if isinstance(value, list) else [value]


def real_paths(value):
    """A flag's value for comparison: different spellings of a path are equal."""
    return [os.path.realpath(str(word)) for word in as_list(value)]


def hash_of_files(value):
    """SHA-256 of all files that a flag's value names, as hex, or "" if it names none. A folder stands for its files."""
    paths = [Path(word) for word in as_list(value) if isinstance(word, str)]
    paths += [file for path in paths if path.is_dir() for file in model_or_data_files(path)]
    paths = [path for path in paths if path.is_file()]
    digest = hashlib.sha256()
    for path in paths:
        with reraise(f"{path}: cannot be read"), open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if paths else ""


def model_or_data_files(folder):
    """The files of the model and tokenizer in a folder, or if there are none, its data files."""
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith("state-")]
    model = [file for file in files if file.suffix in (".pt", ".json", ".txt", ".tiktoken", ".safetensors")]
    return model or [file for file in files if file.suffix in (".jsonl", ".gz", ".parquet")]


def lock(folder, name=LOCK):
    """Makes a folder and locks a file in it until this process ends or calls release(). InputError if it is locked."""
    path = os.path.realpath(Path(folder) / name)
    if path in _locks:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    file, deadline = open(path, "a+"), time.monotonic() + PATIENCE
    while not try_lock(file):
        if time.monotonic() > deadline:
            owner = Path(path).read_text()
            raise InputError(f"--out {folder}: {owner} is at work in it; wait for its end, or choose another --out")
        time.sleep(0.1)
    file.truncate(0)
    print(f"process {os.getpid()} on {platform.node()}", end="", file=file, flush=True)
    _locks[path] = file


def try_lock(file):
    """Locks an open file. False if another process has locked it; True on systems without such locks (Windows)."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        return not isinstance(error, BlockingIOError)
    return True


def release():
    """Releases all locks: closes their files."""
    _locks.clear()
