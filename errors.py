"""One-line user errors that any module may raise, and how a program ends with one."""

import argparse
import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a disk, its quota, an RLIMIT_FSIZE
BROKEN = {errno.EROFS, errno.EIO}
UNREACHABLE = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}  # a path that was given
# How PyTorch words the end of another process: a loader's worker, a rank under gloo or NCCL.
DEAD_WORKER = "DataLoader worker"
DEAD_RANK = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
# With one of these a program prints what it is asked for and does nothing else.
ONLY_PRINTS = {"-h", "--help", "--dry_run", "--dry-run", "--list", "--slurm", "--folder"}


class InputError(ValueError):
    """Wrong input: a flag, a file, a folder. Exit status 2.

    The message is one line that says what is wrong, where, and what would be right. Anything that
    escapes and is neither this nor a RunFailed is a bug of ours and keeps its traceback.
    """


class RunFailed(RuntimeError):
    """A run cannot go on although its input is good: a full disk, a non-finite loss.

    The message is one line. Exit status 1.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says first; the rest is often a page of its internals."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is PyTorch's; by its name, as some rooms do without PyTorch."""
    return type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)


def is_of_another_process(error: RuntimeError) -> bool:
    """Whether it says that another rank has ended."""
    first = first_line(error)
    return not isinstance(error, RunFailed) and any(word in first for word in DEAD_RANK)


@contextlib.contextmanager
def failures_named() -> Iterator[None]:
    """Turn a full or broken disk, a dead loader worker and a dead rank into RunFailed.

    A path that this user cannot follow is wrong input, wherever it is first looked at.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or "a file of the run"
        if error.errno in FULL:
            why = f"cannot be written ({error.strerror}); free some space"
        elif error.errno in UNREACHABLE and error.filename:
            raise InputError(f"{where}: {error.strerror}") from error
        elif error.errno in BROKEN:
            why = f"cannot be read or written ({error.strerror}); is the disk whole, and writable?"
        else:
            raise
        raise RunFailed(f"{where}: {why}") from error
    except RuntimeError as error:
        first = first_line(error)
        if DEAD_WORKER in first:
            raise RunFailed(
                f"a loader process died ({first}); if memory ran out, lower --workers"
            ) from error
        if is_of_another_process(error):
            raise RunFailed(
                f"another process of the run died or is out of reach ({first})"
            ) from error
        raise


def exit_with(error: InputError | RunFailed) -> NoReturn:
    """Print the error's line on standard error and leave the process with its status."""
    line = " ".join(str(error).splitlines())  # a path may hold a line break
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.exit(2 if isinstance(error, InputError) else 1)


class OneLineParser(argparse.ArgumentParser):
    """A command's flags, never abbreviated; bad usage is a line, like all wrong input."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def run_main(main: Callable[[], None]) -> None:
    """Call `main`; an error that is not a bug becomes one line on standard error and a status.

    One that only prints ends quietly where nobody reads on, as in `--dry_run | head`.
    """
    try:
        with failures_named():
            _print_all(main)
    except BrokenPipeError:
        if not _nobody_reads_on():  # another pipe, between processes of ours
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if ONLY_PRINTS & set(sys.argv):
            sys.exit(128 + signal.SIGPIPE)
        exit_with(
            RunFailed(
                "standard output: the pipe was closed, so this ends here; write it to a file, "
                "and go on (a run with --resume)"
            )
        )
    except (InputError, RunFailed) as error:
        exit_with(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _print_all(main: Callable[[], None]) -> None:
    """Call `main`, and print what is still in the buffer while an error of that can be caught."""
    try:
        main()
    except SystemExit:  # of --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _nobody_reads_on() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError):  # no such call here; no file at all
        return False


@contextlib.contextmanager
def memory_advice(images: int, advice: str | None = None) -> Iterator[None]:
    """Turn running out of memory with `images` per pass into a line with a value to try.

    `advice` says what; that for training where it is left out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        in_training = (
            f"try --micro_batch {max(2, images // 2)}, and another --save_dir if there is a "
            "checkpoint: a run keeps its own"
        )
        raise InputError(
            f"out of memory with {images} images per pass: {advice or in_training}"
        ) from error
