"""The error that a user can mend."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A setting, path or file is wrong; the message names it and the remedy.

    The tools print the message alone, without a traceback, and exit with 1.
    """


def sentence(error: InputError) -> str:
    """The message; of an error out of a loader's worker, without its traceback."""
    return str(error).split("InputError: ")[-1].strip()


def exit_in_words(main: Callable[[], None]) -> None:
    """Run a tool's ``main``; where an :class:`InputError` ends it, print and exit 1."""
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {sentence(error)}")
