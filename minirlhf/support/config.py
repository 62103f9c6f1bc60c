"""Makes a script's command line from a frozen dataclass, whose fields' trailing comments are the --help texts."""

import argparse
import dataclasses
import functools
import inspect
import io
import os
import re
import sys
import time
import types
import typing
from contextlib import suppress

from .errors import InputError, require

Text = typing.NewType("Text", str)  # the type of a field that is a string, but no file name
LAST = 8  # seconds until a process says what only follows from the error of another one


def command(main, config, *positional):
    """Runs main(config) with the command line parsed into `config`, a frozen dataclass. An InputError, a file that the
    system refuses, or too little memory, becomes one line on stderr and exit status 2; Ctrl-C one line and status 130.
    """
    ignore_write_errors()
    try:
        main(parse(config, sys.argv[1:], *positional, description=sys.modules[main.__module__].__doc__))
    except (InputError, MemoryError, RuntimeError, OSError) as error:
        line, wait = str(error).replace("\n", " "), turn()
        if isinstance(error, OSError):
            if not error.filename:
                raise
            line = f"{error.filename}: {error.strerror}; is it the path you mean, and may you use it?"
        elif isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|Connection (closed|reset)", line):
            line, wait = f"another process of this run has ended ({line[:100]}); see what it says", LAST
        elif not isinstance(error, InputError):
            if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", line):
                raise
            line = f"out of memory ({line[:200]}); take a smaller model, or less at once (--help says how)"
        time.sleep(wait)  # meanwhile torchrun may end this process, if another has said the same, or the reason
        print(f"error: {line}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        advice = "a training script goes on from its newest state with --resume, others with the same command"
        print(f"stopped: {advice}", file=sys.stderr)
        raise SystemExit(130) from None


def turn():
    """Seconds until this process may print an error that other ranks may have, too: none for rank 0, three for the
    first of another machine, six for the others."""
    first_of_all, first_here = (os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    return 0 if first_of_all else 3 if first_here else 6


def ignore_write_errors():
    """Ignores errors of writing to stdout and stderr: a closed pipe or a full disk must not end a training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
            stream.write, stream.flush = without_os_errors(stream.write), without_os_errors(stream.flush)


def without_os_errors(function):
    def call(*args):
        with suppress(OSError):
            return function(*args)

    return call


def check_fields(config):
    """Raises InputError for numbers that are negative or not finite, and makes a tuple of a single file name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        check_number(field.name, value)
        if field.type in (tuple[str, ...], "tuple[str, ...]") and isinstance(value, (str, os.PathLike)):
            object.__setattr__(config, field.name, (value,))


def check_number(name, value):
    if isinstance(value, (int, float)) and not 0 <= value < 2**63:
        raise InputError(f"--{name}: {value} is {'negative' if value < 0 else 'out of range'}")


def require_positive(config, *names, most=2**63):
    """Raises InputError for fields that are not above 0, or above `most`. None means that a field is not given."""
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


def require_multiple(config, multiple, divisor):
    """Raises InputError if the field named `multiple` is not divisible by the field named `divisor`."""
    a, b = getattr(config, multiple), getattr(config, divisor)
    require(a % b == 0, f"--{multiple} {a} is not divisible by --{divisor} {b}; take {max(b, a // b * b)}")


def require_choice(config, name, choices):
    """Raises InputError if a field is neither None nor one of the choices (strings)."""
    value = getattr(config, name)
    if value is not None and value not in choices:
        listed = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
        raise InputError(f"--{name} {value}: choose {listed}")


def require_ending(config, name, ending):
    """Raises InputError if a field, the name of a file that is written, does not end so."""
    value = getattr(config, name)
    require(value.endswith(ending), f"--{name} {value}: does not end in {ending}; choose a name{ending}")


def refuse_unused(config, names, needed):
    """Raises InputError if one of some fields (names, parted by spaces) is not at its default, since nothing uses them
    without `needed`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in names.split() and value != field.default:
            raise InputError(f"--{field.name} {value}: does nothing without {needed}; add that, or leave it out")


class Parser(argparse.ArgumentParser):
    """Raises InputError for what it cannot parse."""

    def error(self, message):
        message = message.removeprefix("argument ").replace("unrecognized arguments:", "unknown flag or argument:")
        raise InputError(f"{message} (--help lists and explains every flag)")


def file_name(word):
    """The type of a flag that names a file or a folder."""
    if not 0 < len(os.fsencode(word)) < 4000 or max(map(len, os.fsencode(word).split(b"/"))) > 200:
        raise argparse.ArgumentTypeError("too long for a name" if word else "is empty; give a name")
    return word


def parse(config, argv, *positional, description=""):
    """Parses `argv`, a list of words, into `config`, a frozen dataclass whose fields are the flags. A field without a
    default is a required flag; `bool` gives --x and --no-x; `tuple[str, ...]` takes several words. positional: names of
    fields that are given without their flags. Raises InputError on an unknown flag or a value that cannot be read."""
    hints, comments = typing.get_type_hints(config), field_comments(config)
    package = sys.modules["__main__"].__spec__  # of python -m
    prog = package and f"python -m {package.name.removesuffix('.__main__')}"
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog, description=description, allow_abbrev=False, formatter_class=raw)
    own = list(inspect.get_annotations(config))  # these come before those of a base class
    for field in sorted(dataclasses.fields(config), key=lambda f: own.index(f.name) if f.name in own else len(own)):
        name, kind = field.name, hints[field.name]
        options = {"help": comments[name].replace("%", "%%"), "default": argparse.SUPPRESS}
        if field.default is dataclasses.MISSING:
            options["help"] += " (required)"
        elif field.default not in (None, "", ()):
            options["help"] += f" [{field.default!r}]" if field.default == "\n" else f" [{field.default}]"
        if typing.get_origin(kind) in (types.UnionType, typing.Union):  # int | None
            kind = next(t for t in typing.get_args(kind) if t is not type(None))
        several = typing.get_origin(kind) is tuple
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif several:
            options |= {"action": "extend", "nargs": "+", "type": file_name, "metavar": "FILE"}
        else:
            options |= {"type": {str: file_name, Text: str}.get(kind, kind), "metavar": kind.__name__.upper()}
        if name in positional:
            options |= {"nargs": "*" if several else "?", "metavar": name.upper()}
        parser.add_argument(name if name in positional else f"--{name}", **options)
    values = vars(parser.parse_args(argv))  # argparse's own `required` would complain before an unknown flag is named
    required = [field.name for field in dataclasses.fields(config) if field.default is dataclasses.MISSING]
    if missing := [name if name in positional else f"--{name}" for name in required if name not in values]:
        parser.error(f"required: {', '.join(missing)}")
    for name, value in values.items():
        check_number(name, value)
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@functools.cache
def field_comments(config):
    """{field: its comment}, the one on its line and the comment lines right below it."""
    comments, name = {}, None
    for cls in filter(dataclasses.is_dataclass, reversed(config.__mro__)):  # a subclass overrides its bases
        for line in inspect.getsource(cls).splitlines():
            if match := re.match(r"    (\w+): [^#]*(?:#\s*(.*))?$", line):
                name = match[1]
                comments[name] = match[2] or ""
            elif name and (match := re.match(r"\s+#\s*(.*)$", line)):
                comments[name] = f"{comments[name]} {match[1]}".strip()
            else:
                name = None
    return comments
