"""The exceptions whose message is for the user: one line, no traceback; for every room."""

import sys


class InputError(ValueError):
    """Wrong input: a flag, a file, a folder. Exit status 2.

    The message is one line that says what is wrong, where, and what would be right. Anything that
    escapes and is neither this nor a RunFailed is a bug of ours and keeps its traceback.
    """


class RunFailed(RuntimeError):
    """A run that cannot go on, its input being good: a full disk, a loss that is no number.

    The message is one line. Exit status 1.
    """


def exit_with(error: InputError | RunFailed) -> None:
    """Print the error's line on standard error and leave the process with its status."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2 if isinstance(error, InputError) else 1)
