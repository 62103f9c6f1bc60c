"""Errors in what the user gave."""

from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave (a file, a line, a flag) cannot be used. One line: where, what, what to do."""


def require(condition, message):
    if not condition:
        raise InputError(message)


@contextmanager
def reraise(message):
    """Context manager: re-raises any exception as InputError(message), since a file's content can cause almost any."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{error.filename}: {error.strerror}; is it the path you mean, and may you use it?") from None
    except Exception:
        raise InputError(message) from None
