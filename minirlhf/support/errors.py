"""Errors in what the user gave."""

from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave (a file, a line, a flag) cannot be used. One line: where, what, what to do."""


class NotPermitted(InputError):
    """The system refuses a file to this user: it may well be in order."""


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
        advice = "is it the path you mean, and may you use it?"
        raise NotPermitted(f"{error.filename}: {error.strerror}; {advice}") from None
    except Exception:
        raise InputError(message) from None
