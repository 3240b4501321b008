"""The error that a user can mend."""


class InputError(ValueError):
    """A setting, path or file is wrong; the message names it and the remedy.

    The tools print the message alone, without a traceback, and exit with 1.
    """
