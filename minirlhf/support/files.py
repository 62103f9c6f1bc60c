"""Reads and writes files. A file is written completely or not at all."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, reraise

HALF = ".half"  # ends the name of a file that is being written


@contextmanager
def disk_errors(path, advice="or write elsewhere"):
    """Context manager: re-raises an OSError, such as a full disk, as InputError about `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError, with the OSError as its context
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise InputError(f"{path}: cannot be written ({cause.strerror}); make room, {advice}") from None


def write_atomically(path, content):
    """Writes a temporary file beside `path` and renames it, so that a reader finds the old file or the complete new
    one. content: bytes, or a function that writes to the open file it is given."""
    path, temporary = Path(path), None
    try:
        with disk_errors(path, "or write elsewhere; what was there is untouched"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=HALF)
            with os.fdopen(handle, "wb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_json(path, value):
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def write_lines(path, records):
    """Writes JSON lines, one record each."""
    write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())


def read_lines(path):
    """The records of JSON lines, a list. A last line that a kill has cut short is left out."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]


def read_json(path, advice="put it back, or choose another --out"):
    """The JSON object in a file, as a dict."""
    with reraise(f"{path}: missing or not a JSON object; {advice}"):
        value = json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else None  # a pipe may block
        if not isinstance(value, dict):
            raise TypeError
        return value
