"""The one exception that means "the user's input is wrong"; every room may raise it."""


class InputError(ValueError):
    """Wrong input: a flag, a file, a folder.

    The message is one line that says what is wrong, where, and what would be right. The mains print
    it and exit with status 2; anything else that escapes is a bug of ours and keeps its traceback.
    """
