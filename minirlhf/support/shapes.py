"""Checks the shapes of a formula's arguments. Otherwise broadcasting (B, 1) with (B,) would silently give (B, B)."""

import functools
import inspect


def shapes(**expected):
    """Decorator: @shapes(scores="B", mask="BR") raises ValueError unless the arguments scores and mask have these
    shapes, where each letter stands for one size."""

    def decorate(formula):
        names = list(inspect.signature(formula).parameters)

        @functools.wraps(formula)
        def checked(*args, **kwargs):
            arguments, sizes = dict(zip(names, args)) | kwargs, {}
            for name, letters in expected.items():
                shape = tuple(arguments[name].shape)
                sizes = dict(zip(letters, shape)) | sizes  # a letter keeps the size of its first argument
                if shape != tuple(sizes.get(letter) for letter in letters):
                    raise ValueError(f"{formula.__name__}: {name} has shape {shape}, not {tuple(letters)}, of {sizes}")
            return formula(*args, **kwargs)

        return checked

    return decorate
