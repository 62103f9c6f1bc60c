"""A run's folder belongs to one run, whose flags and input files it records, and to one process at a time."""

import errno
import hashlib
import json
import os
import platform
import re
import stat
import time
import typing
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from .config import Text
from .errors import InputError, require, reraise
from .files import HALF, disk_errors, read_json, unchanged, write_json
from .rows import files
from .tokens import ABOUT, is_encoded

LOCK = ".lock"  # names the process that uses a folder
PATIENCE = 3  # seconds that lock() waits: a killed process may need a moment to end
TEMPORARY = re.compile(rf"\.[\w.-]+\.\w{{4,}}{re.escape(HALF)}")  # what files.write_atomically calls a file at first
WEIGHTS = (".pt", ".safetensors")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
_locks = {}  # path of a lock file -> the file, open for as long as this process holds the lock


def lock_output(config, ignore=()):
    """Locks the folder config.out for the run that the dataclass `config` describes, and writes its config.json. Raises
    InputError if another process uses the folder, if it holds another run or other files, or if the files that flags
    name have changed since the run was begun. Flags in `ignore` may differ."""
    out, (flags, hashes) = Path(config.out), describe(config, ignore)
    with disk_errors(f"--out {out}"):
        free = all(path.is_dir() or not os.path.lexists(path) for path in (out, *out.parents))
        require(free, f"--out {out}: a file, or a link to nothing, is in the way; choose another --out")
        check_owner(out, flags, hashes, ignore)
        lock(out)
        check_owner(out, flags, hashes, ignore)  # another process may have written to it in between
    for half in out.glob(f".*{HALF}"):  # of a process that was killed while it wrote
        half.unlink()
    write_json(out / "config.json", flags | {"read": {name: value for name, value in hashes.items() if value}})


def describe(config, ignore=()):
    """(flags, hashes) of a run: {flag: its value}, and {flag: the hash of the files that it names, or ""}."""
    flags = json.loads(json.dumps(asdict(config)))
    flags = {name: value for name, value in flags.items() if name not in ignore}
    texts = {name for name, kind in typing.get_type_hints(type(config)).items() if kind in (Text, Text | None)}
    return flags, {name: hash_of_files(value) for name, value in flags.items() if name not in texts | {"out"}}


def check_owner(out, flags, hashes, ignore):
    """Raises InputError if the folder holds anything but this run. Files may have moved; their content counts."""
    if not (out / "config.json").exists():
        if out.exists() and any(not TEMPORARY.fullmatch(path.name) and path.name != LOCK for path in out.iterdir()):
            raise InputError(f"--out {out} is not empty and no run's; choose another --out")
        return
    with reraise(f"{out}/config.json: not a run's; put it back, or choose another --out"):
        other = {name: value for name, value in read_json(out / "config.json").items() if name not in ignore}
        others = other.pop("read", {})
        moved = {name for name, value in hashes.items() if value and value == others.get(name)} | {"out"}
        names = sorted((flags.keys() | other.keys()) - moved)
        differing = [name for name in names if real_paths(flags.get(name)) != real_paths(other.get(name))]
    if differing:
        changes = ", ".join(f"--{name} was {other.get(name)}, now {flags.get(name)}" for name in differing)
        raise InputError(f"--out {out} holds another run ({changes}); choose another --out")
    for name, value in others.items():
        if hashes.get(name, value) != value:
            flag = f"--{name} {' '.join(map(str, as_list(flags.get(name))))}"
            raise InputError(f"{flag} has changed since --out {out} was begun; put it back, or choose another --out")


def as_list(value):
    return value if isinstance(value, list) else [value]


def real_paths(value):
    """A flag's value for comparison: different spellings of a path are equal."""
    return [os.path.realpath(str(word)) for word in as_list(value)]


def hash_of_files(value):
    """SHA-256 of all files that a flag's value names, as hex, or "" if it names none. A folder stands for its files, a
    pattern for those that match. InputError if one has changed since it was read."""
    digest, paths = hashlib.sha256(), [path for word in as_list(value) if isinstance(word, str) for path in named(word)]
    for path in paths:
        with reraise(f"{path}: cannot be read"), open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        require(unchanged(path), f"{path}: was changed while it was read; run the command again")
    return digest.hexdigest() if paths else ""


def named(path):
    """The files of a model, or of data, that a path stands for: of a finished run model.pt and its tokenizer alone."""
    model = []
    if is_encoded(path):  # its description has the hash of the other files
        return [os.path.join(path, ABOUT)]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if not name.startswith("state-"))
        weights = ["model.pt"] if "model.pt" in names else [name for name in names if name.endswith(WEIGHTS)]
        about = ["config.json"] if weights and weights[0].endswith(".safetensors") else []  # Hugging Face's: the sizes
        tokenizer = [name for name in names if name in TOKENIZER or name.endswith(".tiktoken")]
        model = [os.path.join(path, name) for name in [*weights, *about, *tokenizer] if name in names]
    data, notes = [], os.path.join(path, "model.pt") in model  # beside a model a .txt file is no data
    with suppress(InputError):
        data = [file for file in files(path) if not (notes and file.endswith(".txt"))]
    return sorted({file for file in [*model, *data] if os.path.isfile(file)})


def lock(folder, name=LOCK):
    """Makes a folder and locks a file in it until this process ends or calls release_locks(). InputError if it is
    locked, or a link."""
    path = os.path.realpath(folder) + os.sep + name
    what = folder if name == LOCK else os.path.join(folder, name[1:].removesuffix(LOCK))
    if path in _locks:
        return
    require(not os.path.isdir(path), f"{path}: a folder, and no run makes such; remove it")
    Path(folder).mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE
    while not (file := locked(path, whole_folder=name == LOCK)):
        if time.monotonic() > deadline:
            owner = Path(path).read_text() or "another process"
            raise InputError(f"--out {what}: {owner} is at work in it; wait for its end, or choose another --out")
        time.sleep(0.1)
    if file.no_locks:
        print(f"--out {what}: no locks on this file system; see to it that no second process writes there", flush=True)
    file.truncate(0)
    print(f"process {os.getpid()} on {platform.node()}", end="", file=file, flush=True)
    _locks[path] = file


def locked(path, whole_folder):
    """The file, open and locked, or None if another process has locked it. whole_folder: its folder is locked, too, for
    the case that somebody removes the file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path}: a link, which no run makes; remove it") from None
    require(stat.S_ISREG(os.fstat(handle).st_mode), f"{path}: no file, and no run makes such; remove it")
    file = open(handle, "r+")
    folder = os.open(os.path.dirname(path), os.O_RDONLY) if whole_folder and os.name == "posix" else None
    taken = try_lock(file)
    if taken is not False and (folder is None or try_lock(folder) is not False):
        if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):  # not removed meanwhile
            file.folder, file.no_locks = folder, taken is None
            return file
    file.close()
    if folder is not None:
        os.close(folder)
    return None


def try_lock(file):
    """Locks an open file. False if another process has locked it; None if the system or the file system has no such
    locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        return False if isinstance(error, BlockingIOError) else None
    return True


def release_locks():
    """Releases all locks: closes their files."""
    while _locks:
        _, file = _locks.popitem()
        if file.folder is not None:
            os.close(file.folder)
        file.close()
