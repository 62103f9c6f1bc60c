"""A script's configuration is one frozen dataclass; its command line is that dataclass, reflected.

A field's trailing comment is its --help text, so the code, the command line and the documentation cannot disagree.
"""

import argparse
import dataclasses
import inspect
import os
import re
import sys
import types
import typing


class InputError(ValueError):
    """Something the user gave (a file, a line, a flag) cannot be used. One line: where, what, what to do."""


def require(condition, message):
    if not condition:
        raise InputError(message)


def command(main):
    """Calls `main(argv)` with the command line: an InputError becomes one line on stderr and exit status 2."""
    try:
        main(sys.argv[1:])
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of torchrun's processes one speaks for all
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        advice = "a training script goes on from its newest state with --resume, others with the same command"
        print(f"stopped: {advice}", file=sys.stderr)
        raise SystemExit(130) from None


class Parser(argparse.ArgumentParser):
    """Whose complaints are InputErrors, and whose flags are not abbreviated."""

    def __init__(self, description):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, allow_abbrev=False, formatter_class=form)

    def error(self, message):
        message = message.replace("unrecognized arguments:", "unknown flag or argument:")
        raise InputError(f"{message} (--help lists and explains every flag)")


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
        options = {"help": comments[field.name].replace("%", "%%"), "default": field.default}
        if required:
            options["help"] += " (required)"
        elif field.default not in (None, "", ()):
            options["help"] += f" [{field.default}]"
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            options |= {"nargs": "+", "type": str, "metavar": "FILE"}
        else:
            if isinstance(kind, types.UnionType):  # int | None
                kind = next(t for t in typing.get_args(kind) if t is not type(None))
            options |= {"type": kind, "metavar": kind.__name__.upper()}
        parser.add_argument(f"--{field.name}", **options)
    values = vars(parser.parse_args(argv))  # which names a mistyped flag before the one that is missing for it
    missing = [f"--{name}" for name, value in values.items() if value is dataclasses.MISSING]
    if missing:
        parser.error(f"required: {', '.join(missing)}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def to_flags(values):
    """A dict of settings as command-line words: {"lr": 1e-3, "data": ("a", "b"), "resume": True} and so on."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, (tuple, list)):
            words += [f"--{name}", *map(str, value)]
        else:
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
