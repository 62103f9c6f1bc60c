"""Files on disk: whole or not at all, and never in somebody else's folder."""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from .config import InputError, require

HALF = ".half"  # ends the name of a file that is being written


def write_atomically(path, content):
    """Writes bytes to a temporary file beside `path` and renames it: a reader finds the old file or the whole new."""
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=HALF)
        with os.fdopen(handle, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save turns the one into the other
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise InputError(f"{cannot_write(path, cause)}, or write elsewhere; what was there is untouched") from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def cannot_write(path, error):
    """The beginning of a line about a file that an OSError kept from being written."""
    return f"{path}: cannot be written ({error.strerror}); make room"


def write_json(path, value):
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def write_lines(path, records):
    """JSON lines, one record each."""
    write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        raise InputError(f"{path}: missing or not JSON; remove its folder and run again") from None


def claim(config, ignore=()):
    """Makes the folder config.out that of the run which the dataclass `config` describes, and keeps it so.

    Refuses a folder that holds another run, or files that are no run's. Fields in `ignore` may differ.
    """
    out = Path(config.out)
    settings = {k: v for k, v in json.loads(json.dumps(asdict(config))).items() if k not in ignore}
    require(not any(parent.is_file() for parent in (out, *out.parents)), f"--out {out}: a file is in the way")
    if (out / "config.json").exists():
        other = read_json(out / "config.json")
        differing = sorted(k for k in settings.keys() | other.keys() if settings.get(k) != other.get(k))
        flags = ", ".join(f"--{k} was {other.get(k)}, now {settings.get(k)}" for k in differing)
        require(not differing, f"--out {out} holds another run ({flags}); choose another --out")
    elif out.exists():
        others = [path for path in out.iterdir() if path.suffix != HALF]
        require(not others, f"--out {out} is not empty and no run's; choose another --out")
    for half in out.glob(f".*{HALF}"):  # a process was killed while it wrote
        half.unlink()
    write_json(out / "config.json", settings)
