"""Shapes are checked once, at a formula's door: broadcasting would take scores (B, 1) beside log-probs (B, R) without a
word, and make rewards (B, B, R) of them."""

import functools
import inspect


def shapes(**expected):
    """A decorator: @shapes(scores="B", mask="BR") has a ValueError raised where the arguments scores and mask have not
    those shapes, each letter being one size throughout."""

    def decorate(formula):
        signature = inspect.signature(formula)

        @functools.wraps(formula)
        def checked(*args, **kwargs):
            given, sizes = signature.bind(*args, **kwargs).arguments, {}
            for name, letters in expected.items():
                shape = tuple(given[name].shape)
                fits = len(shape) == len(letters) and all(sizes.setdefault(x, n) == n for x, n in zip(letters, shape))
                if not fits:
                    raise ValueError(f"{formula.__name__}: {name} has shape {shape}, not {tuple(letters)}, of {sizes}")
            return formula(*args, **kwargs)

        return checked

    return decorate
