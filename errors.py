"""The exceptions whose message is for the user: one line, no traceback; for every room."""

import contextlib
import errno
import sys
from collections.abc import Iterator

# What a disk or its quota answers, and what an RLIMIT_FSIZE does.
FULL_OR_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# How PyTorch words the end of another process: a loader's worker, a rank under gloo or NCCL.
DEAD_WORKER = "DataLoader worker"
DEAD_RANK = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")


class InputError(ValueError):
    """Wrong input: a flag, a file, a folder. Exit status 2.

    The message is one line that says what is wrong, where, and what would be right. Anything that
    escapes and is neither this nor a RunFailed is a bug of ours and keeps its traceback.
    """


class RunFailed(RuntimeError):
    """A run that cannot go on, its input being good: a full disk, a loss that is no number.

    The message is one line. Exit status 1.
    """


@contextlib.contextmanager
def failures_named() -> Iterator[None]:
    """Turn a full disk, a dead loader worker and a dead rank into RunFailed, wherever they show."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_OR_BROKEN:
            raise
        where = error.filename or "a file of the run"
        raise RunFailed(
            f"{where}: cannot be written ({error.strerror}); free some space"
        ) from error
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        if DEAD_WORKER in first:
            raise RunFailed(
                f"a loader process died ({first}); if memory ran out, lower --workers"
            ) from error
        if not isinstance(error, RunFailed) and any(word in first for word in DEAD_RANK):
            raise RunFailed(
                f"another process of the run died or is out of reach ({first})"
            ) from error
        raise


def exit_with(error: InputError | RunFailed) -> None:
    """Print the error's line on standard error and leave the process with its status."""
    line = " ".join(str(error).splitlines())  # a path may hold a line break
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.exit(2 if isinstance(error, InputError) else 1)
