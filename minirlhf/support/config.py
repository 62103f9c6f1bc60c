"""A script's configuration is one frozen dataclass, and its command line is made from that dataclass.

A field's trailing comment is its --help text, so code, command line and documentation cannot disagree.
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
from contextlib import suppress

from .errors import InputError


def command(main, config, *positional):
    """Runs a script: parses the command line into `config`, a frozen dataclass, and calls main(config).

    An InputError, or too little memory, becomes one line on stderr and exit status 2; Ctrl-C one line and status 130.
    """
    ignore_write_errors()
    try:
        main(parse(config, sys.argv[1:], *positional, description=sys.modules[main.__module__].__doc__))
    except (InputError, MemoryError, RuntimeError) as error:
        line = str(error).replace("\n", " ")
        if not isinstance(error, InputError):
            if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", line):
                raise
            line = f"out of memory ({line[:200]}); take a smaller model, or less at once (--max_tokens)"
        if os.environ.get("LOCAL_RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:
            print(f"error: {line}", file=sys.stderr)  # under torchrun only one process prints it
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        advice = "a training script goes on from its newest state with --resume, others with the same command"
        print(f"stopped: {advice}", file=sys.stderr)
        raise SystemExit(130) from None


def ignore_write_errors():
    """Ignores errors of writing to stdout and stderr: a closed pipe or a full disk must not cost a training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
            stream.write, stream.flush = without_os_errors(stream.write), without_os_errors(stream.flush)


def without_os_errors(function):
    def call(*args):
        with suppress(OSError):
            return function(*args)

    return call


# --- checks of a field's value, for __post_init__ --------------------------------------------------------------------


def check_fields(config):
    """Raises InputError for numbers that are negative or not finite, and makes a tuple of a single file name. A Config
    that is made in Python has not passed through the command line's checks."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, (int, float)) and not 0 <= value < 2**63:
            raise InputError(f"--{field.name} {value}: must be a number that is not negative")
        if field.type in (tuple[str, ...], "tuple[str, ...]") and isinstance(value, (str, os.PathLike)):
            object.__setattr__(config, field.name, (value,))


def require_positive(config, *names, most=2**63):
    """Raises InputError for fields that are not above 0, or above `most`. A field that is None is not given."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value <= most:
            bound = f"must be at most {most:,}" if value > 0 else "must be above 0"
            raise InputError(f"--{name} {value}: {bound}")


def require_fraction(config, *names, below_one=False):
    """Raises InputError for fields that are not between 0 and 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1 or (below_one and value == 1):
            bound = "must be at least 0 and below 1" if below_one else "must lie between 0 and 1"
            raise InputError(f"--{name} {value}: {bound}")


def require_multiple(config, whole, part):
    """Raises InputError for a field `whole` that is not divisible by the field `part`."""
    a, b = getattr(config, whole), getattr(config, part)
    if a % b:
        raise InputError(f"--{whole} {a} is not divisible by --{part} {b}; take {max(b, a // b * b)}")


def require_choice(config, name, choices):
    value = getattr(config, name)
    if value is not None and value not in choices:
        listed = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
        raise InputError(f"--{name} {value}: choose {listed}")


# --- the command line ------------------------------------------------------------------------------------------------


Text = typing.NewType("Text", str)  # of a field that is not the name of a file


class Parser(argparse.ArgumentParser):
    """Raises InputError for what it cannot parse, and accepts no abbreviated flags."""

    def __init__(self, description, prog=None):
        form = argparse.RawDescriptionHelpFormatter
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


def parse(config, argv, *positional, description=""):
    """Parses `argv`, a list of words, into `config`, a frozen dataclass whose fields are the flags.

    A field without a default is a required flag; `bool` gives --x and --no-x; `tuple[str, ...]` takes several words.
    positional: names of fields that are given without their flags. Raises InputError on an unknown flag or a value that
    cannot be read; impossible values are for the dataclass to check.
    """
    hints, comments = typing.get_type_hints(config), _field_comments(config)
    package = sys.modules["__main__"].__spec__  # of python -m
    parser = Parser(description, package and f"python -m {package.name.removesuffix('.__main__')}")
    own = list(vars(config)["__annotations__"])  # before those of a base class
    for field in sorted(dataclasses.fields(config), key=lambda f: own.index(f.name) if f.name in own else len(own)):
        kind, required = hints[field.name], field.default is dataclasses.MISSING
        options = {"help": comments[field.name].replace("%", "%%"), "default": argparse.SUPPRESS}
        if required:
            options["help"] += " (required)"
        elif field.default not in (None, "", ()):
            options["help"] += f" [{field.default!r}]" if field.default == "\n" else f" [{field.default}]"
        if typing.get_origin(kind) in (types.UnionType, typing.Union):  # int | None
            kind = next(t for t in typing.get_args(kind) if t is not type(None))
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            options |= {"action": "extend", "nargs": "+", "type": file_name, "metavar": "FILE"}
        else:
            read = {str: file_name, Text: str}.get(kind) or number(kind)
            options |= {"type": read, "metavar": kind.__name__.upper()}
        if (name := field.name) in positional:
            several = typing.get_origin(kind) is tuple
            parser.add_argument(field.name, **options | {"nargs": "*" if several else "?", "metavar": name.upper()})
        else:
            parser.add_argument(f"--{name}", **options)
    values = vars(parser.parse_args(argv))  # which names a mistyped flag before the one that is missing for it
    needed = [field.name for field in dataclasses.fields(config) if field.default is dataclasses.MISSING]
    missing = [name if name in positional else f"--{name}" for name in needed if name not in values]
    if missing:
        parser.error(f"required: {', '.join(missing)}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


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
