"""Every error that tinyunet raises on purpose.

A message says who refuses, both values (what came, what was expected) and what to do. Each class also derives from the
built-in error that a Python programmer would expect, so `except ValueError` works as usual. Catch `TinyUNetError` to
tell a refusal from a bug: the command line prints the first as one line and lets the second show its traceback.
"""


class TinyUNetError(Exception):
    """Base of all errors below."""


class ShapeError(TinyUNetError, ValueError):
    """An array, an image or a network size does not fit where it was put."""


class DTypeError(TinyUNetError, TypeError):
    """An array has a dtype that the operation does not take."""


class OrderError(TinyUNetError, RuntimeError):
    """Calls came in an order that makes no sense: backward before forward, say."""


class ConfigError(TinyUNetError, ValueError):
    """An option, a spec or a configuration file says something impossible."""


class DataError(TinyUNetError, ValueError):
    """An image, a mask or a folder of them cannot be used as it is."""


class CheckpointError(TinyUNetError, ValueError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class TrainingError(TinyUNetError, ArithmeticError):
    """Training went wrong: the loss is not finite. The last good checkpoint is kept."""


class BackendError(TinyUNetError, RuntimeError):
    """A device or a library that was asked for is not there, or arrays live on two devices."""


class CheckError(TinyUNetError, AssertionError):
    """A check of `tinyunet.check` found something wrong: a gradient that is no gradient, an adjoint that is none."""


def short(value: object, at_most: int = 200) -> str:
    """What a message quotes of a file: one line, and no more of it than a person would read."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number without end"
    return text if len(text) <= at_most else text[:at_most] + " ..."


def shown(value: object) -> str:
    """A value as it is written in Python, cut by `short`."""
    try:
        return short(repr(value))
    except ValueError:
        return short(value)
