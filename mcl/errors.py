"""The error that a user can mend."""

import sys
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """A setting, path or file is wrong; the message names it and the remedy.

    The tools print the message alone, without a traceback, and exit with 1.
    """


def user_message(error: InputError) -> str:
    """The message; of an error out of a loader's worker, without its traceback."""
    return str(error).split("InputError: ")[-1].strip()


def run_cli(main: Callable[[], None]) -> None:
    """Run a tool's ``main``; where an :class:`InputError` ends it, print and exit 1."""
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {user_message(error)}")


def one_value(given: dict[str, Any], default: Any) -> Any:
    """The one value that several names of a setting give; ``default`` where none does.

    Args:
        given: value of each name, None where it is not set.

    Raises:
        InputError: when two names give different values.
    """
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    first = next(iter(values.values()), default)
    if any(value != first for value in values.values()):
        listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise InputError(f"{listed}: these are one setting, so give it once")
    return first
