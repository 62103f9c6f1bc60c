"""Reads and writes files. A file is written completely or not at all."""

import errno
import json
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError, reraise

HALF = ".half"  # ends the name of a file that is being written
_seen = {}  # path of a file that was read -> its signature at that time


@contextmanager
def disk_errors(path, advice="or write elsewhere"):
    """Context manager: re-raises an OSError, such as a full disk, as InputError about `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError, with the OSError as its context
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        full = cause.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        advice = f"make room, {advice}" if full else advice.removeprefix("or ")
        raise InputError(f"{path}: cannot be written ({cause.strerror or cause}); {advice}") from None


def write_atomically(path, content):
    """Writes a temporary file beside `path` and renames it, so that a reader finds the old file or the complete new
    one. content: bytes, or a function that writes to the open file it is given."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{HALF}")
    try:
        with disk_errors(path, "or write elsewhere; what was there is untouched"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:  # x: a new file, with the permissions that the umask leaves
                file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                with suppress(OSError):  # some file systems have no permissions
                    os.chmod(temporary, path.stat().st_mode & 0o7777)
            os.replace(temporary, path)
            _seen.pop(os.path.realpath(path), None)  # this process may change what it has read
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # after the renaming there is none
            temporary.unlink()


def write_json(path, value):
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def write_lines(path, records):
    """Writes JSON lines, one record each."""
    write_atomically(path, b"".join(map(as_line, records)))


def as_line(record):
    """A record as a JSON line in UTF-8, without lone surrogates ("\\ud83d"). Values that JSON lacks become text."""
    return (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")


def read_lines(path):
    """The records of JSON lines, a list."""
    return [json.loads(line) for line in complete_lines(path)]


def complete_lines(path):
    """The lines of a text file, a list. A last one that a kill has cut short is left out."""
    return Path(path).read_text(encoding="utf-8").split("\n")[:-1]


def read_json(path, advice="put it back, or choose another --out"):
    """The JSON object in a file, as a dict."""
    with reraise(f"{path}: missing or not a JSON object; {advice}"):
        value = json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else None  # a pipe may block
        if not isinstance(value, dict):
            raise TypeError
        return value


def sync_folder(folder):
    """Syncs a folder's entries, so that a new file survives a power cut. (Windows has no such call.)"""
    if os.name == "posix":
        with suppress(OSError):  # some file systems have none either
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def note_signature(path):
    """Notes what a file looks like that is about to be read. unchanged(path) tells whether it still does."""
    _seen[os.path.realpath(path)] = signature(path)


def unchanged(path):
    return _seen.get(os.path.realpath(path), signature(path)) == signature(path)


def signature(path):
    about = os.stat(path)
    return about.st_ino, about.st_size, about.st_mtime_ns
