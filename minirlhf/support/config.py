"""A script's configuration is one frozen dataclass; its command line is that dataclass, reflected.

A field's trailing comment is its --help text, so the code, the command line and the documentation cannot disagree.
"""

import argparse
import dataclasses
import inspect
import io
import os
import re
import sys
import types
import typing
from contextlib import ContextDecorator, suppress

from .errors import InputError, require


def require_positive(config, *names):
    """Refuses fields that are not above 0 (None is no number), or so large that a run could not even be planned."""
    for name in names:
        value, end = getattr(config, name), name.split("_")[-1]
        most = 10_000 if end in ("epochs", "layer") else 1_000_000 if end in ("size", "batch", "ctx", "embd") else 2**63
        require(value is None or value > 0, f"--{name} {value}: must be above 0")
        require(value is None or value <= most, f"--{name} {value}: must be at most {most:,}")


def be_patient():
    """Lets stdout and stderr outlive their readers: a closed pipe or a full disk must not cost a training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
            stream.write, stream.flush = map(_Patient(OSError), (stream.write, stream.flush))


class _Patient(suppress, ContextDecorator):
    """suppress, as a decorator."""


def command(main):
    """Calls `main(argv)` with the command line: an InputError becomes one line on stderr and exit status 2."""
    be_patient()
    try:
        main(sys.argv[1:])
    except (InputError, MemoryError, RuntimeError) as error:
        line = str(error).replace("\n", " ")
        if not isinstance(error, InputError):
            if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", line):
                raise
            line = f"out of memory ({line[:200]}); take a smaller model, or less at once (--max_tokens)"
        if os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:
            print(f"error: {line}", file=sys.stderr)  # of torchrun's processes one speaks for all
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        advice = "a training script goes on from its newest state with --resume, others with the same command"
        print(f"stopped: {advice}", file=sys.stderr)
        raise SystemExit(130) from None


class Parser(argparse.ArgumentParser):
    """Whose complaints are InputErrors, and whose flags are not abbreviated."""

    def __init__(self, description):
        form, module = argparse.RawDescriptionHelpFormatter, sys.modules["__main__"].__spec__
        prog = module and f"python -m {module.name.removesuffix('.__main__')}"  # else the script's name
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=form)

    def error(self, message):
        message = message.removeprefix("argument ").replace("unrecognized arguments:", "unknown flag or argument:")
        raise InputError(f"{message} (--help lists and explains every flag)")


def file_name(word):
    """Reads what may be a file's or a folder's name."""
    if not 0 < len(os.fsencode(word)) < 4000 or max(map(len, os.fsencode(word).split(b"/"))) > 200:
        raise argparse.ArgumentTypeError("too long for a name" if word else "is empty; give a name")
    return word


def number(kind):
    """Reads an int or a float. No flag here takes a negative number, and none an infinite one."""

    def read(word):
        if not 0 <= (value := kind(word)) < 2**63:
            raise argparse.ArgumentTypeError(f"{word} is {'negative' if value < 0 else 'out of range'}")
        return value

    read.__name__ = kind.__name__
    return read


def parse(config, argv, description):
    """Parses `argv` into `config`, a frozen dataclass whose fields are the flags.

    A field without a default is a required flag; `bool` gives --x and --no-x; `tuple[str, ...]` takes several words.
    Raises InputError on an unknown flag or an unreadable value; the dataclass checks impossible ones itself.
    """
    hints, comments = typing.get_type_hints(config), _field_comments(config)
    parser = Parser(description)
    own = list(vars(config)["__annotations__"])  # before those of a base class
    for field in sorted(dataclasses.fields(config), key=lambda f: own.index(f.name) if f.name in own else len(own)):
        kind, required = hints[field.name], field.default is dataclasses.MISSING
        options = {"help": comments[field.name].replace("%", "%%"), "default": argparse.SUPPRESS}
        if required:
            options["help"] += " (required)"
        elif field.default not in (None, "", ()):
            options["help"] += f" [{field.default}]"
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            options |= {"action": "extend", "nargs": "+", "type": file_name, "metavar": "FILE"}
        else:
            if isinstance(kind, types.UnionType):  # int | None
                kind = next(t for t in typing.get_args(kind) if t is not type(None))
            options |= {"type": file_name if kind is str else number(kind), "metavar": kind.__name__.upper()}
        parser.add_argument(f"--{field.name}", **options)
    values = vars(parser.parse_args(argv))  # which names a mistyped flag before the one that is missing for it
    needed = [field.name for field in dataclasses.fields(config) if field.default is dataclasses.MISSING]
    missing = [f"--{name}" for name in needed if name not in values]
    if missing:
        parser.error(f"required: {', '.join(missing)}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def to_flags(values):
    """A dict of settings as command-line words: {"lr": 1e-3, "data": ("a", "b"), "resume": True} and so on. None is
    left out."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, (tuple, list)):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def _field_comments(config):
    """{field: its comment}: the one on its line, and the comment lines right below it. Base classes come first, so that
    a field declared again has its own."""
    comments, name = {}, None
    lines = [inspect.getsource(c).splitlines() for c in reversed(config.__mro__) if dataclasses.is_dataclass(c)]
    for line in sum(lines, []):
        if match := re.match(r"    (\w+): [^#]*(?:#\s*(.*))?$", line):
            name = match[1]
            comments[name] = match[2] or ""
        elif name and (match := re.match(r"\s+#\s*(.*)$", line)):
            comments[name] = f"{comments[name]} {match[1]}".strip()
        else:
            name = None
    return comments
