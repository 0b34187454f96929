"""File systems that lack a feature: a run goes on, to the same bits, and says once what is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.main_cases import (
    HERE,
    TINY,
    Interrupted,
    assert_same_run,
    die,
    load,
    names,
    one_error_line,
    run_imp,
    skip_pictures,
    write_images,
)

import main_imp_pretrain
from engine import run_folder, steps
from engine.run_folder import RunFolder, holding
from errors import InputError, RunFailed
from files.checkpoints import save_checkpoint
from files.features import LacksFeature
from files.names import previous


def is_folder(place: Any, *_: Any) -> bool:
    return os.path.isdir(place)


def is_file(place: Any, *_: Any) -> bool:
    return not is_folder(place)


def always(*_: Any, **__: Any) -> bool:
    return True


class Lack(NamedTuple):
    """A system call that fails, on what, as file systems do; what is said, if anything is lost."""

    module: Any
    call: str
    where: Callable[..., bool]
    errnos: str
    told: str | None


LACKS = {
    "fsync of a file": Lack(os, "fsync", is_file, "EINVAL ENOSYS ENOTSUP", "flushes no file"),
    "fsync of a folder": Lack(
        os, "fsync", is_folder, "EINVAL EBADF EISDIR ENOSYS ENOTSUP EPERM", "flushes no folder"
    ),
    "open of a folder": Lack(os, "open", is_folder, "EACCES EISDIR EINVAL EPERM", "flushes no fol"),
    "chmod": Lack(os, "chmod", always, "EPERM EACCES ENOTSUP ENOSYS EINVAL", "sets no permissions"),
    "link": Lack(os, "link", always, "EPERM ENOTSUP ENOSYS EMLINK EXDEV EACCES EINVAL", None),
    "rename": Lack(
        os, "replace", always, "ENOSYS ENOTSUP EINVAL EXDEV EPERM EEXIST", "renames no file"
    ),
}
LOCKF = Lack(fcntl, "lockf", always, "ENOLCK ENOSYS ENOTSUP EINVAL EBADF EIO EPERM ESTALE", "locks")
EACH = [
    pytest.param(lack, name, id=f"{what} {name}")
    for what, lack in LACKS.items()
    for name in lack.errnos.split()
]
FAULTS = ("EIO", "ENOSPC", "EDQUOT", "EROFS")


def fail(patch: pytest.MonkeyPatch, module: Any, call: str, where: Any, name: str) -> list[Any]:
    """Let a call fail with an errno where `where` holds of its arguments; gives those that did."""
    original, number = getattr(module, call), getattr(errno, name)
    failed = []

    def failing(*args: Any, **rest: Any) -> Any:
        if where(*args, **rest):
            failed.append(args)
            raise OSError(number, os.strerror(number))
        return original(*args, **rest)

    patch.setattr(module, call, failing)
    accessor = getattr(pathlib, "_NormalAccessor", None)  # Path's copies of os's, in Python 3.10
    if getattr(accessor, call, None) is original:
        patch.setattr(accessor, call, staticmethod(failing))
    return failed


# --- files ----------------------------------------------------------------------------------------


def write_twice(path: Path) -> set[str]:
    """Write a checkpoint and another one over it; give what was said to be missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in (1, 2):
            save_checkpoint(path, {"epoch": epoch, "w": torch.ones(9)}, keep_previous=True)
    assert all(issubclass(one.category, LacksFeature) for one in caught)
    return {str(one.message) for one in caught}


@pytest.mark.parametrize(("lack", "name"), EACH)
def test_files_are_written_without_a_feature(tmp_path, monkeypatch, lack, name):
    path = tmp_path / "c.pth.tar"
    with monkeypatch.context() as patch:
        failed = fail(patch, lack.module, lack.call, lack.where, name)
        said = write_twice(path)
    assert failed
    assert (load(path)["epoch"], load(previous(path))["epoch"]) == (2, 1)
    assert names(tmp_path) == {"c.pth.tar"}
    assert len(said) == (lack.told is not None)
    for line in said:
        assert line.startswith(f"{tmp_path}: the file system {lack.told}")
        assert line.endswith(f" ({os.strerror(getattr(errno, name))})")


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("call", ["fsync", "chmod", "link", "replace"])
def test_a_fault_of_the_disk_is_no_missing_feature(tmp_path, monkeypatch, call, name):
    path = tmp_path / "c.pth.tar"
    save_checkpoint(path, {"epoch": 1})
    with monkeypatch.context() as patch:
        fail(patch, os, call, always, name)
        with pytest.raises(RunFailed, match="cannot be written"):
            save_checkpoint(path, {"epoch": 2}, keep_previous=True)
    assert load(path) == {"epoch": 1}
    assert names(tmp_path) == {"c.pth.tar"}


@pytest.mark.parametrize("name", [*FAULTS, "EACCES", "EPERM", "ESTALE", "ENAMETOOLONG"])
def test_a_place_that_takes_no_file_is_an_error(tmp_path, monkeypatch, name):
    fail(monkeypatch, tempfile, "mkstemp", always, name)
    with pytest.raises(RunFailed, match="cannot be written"):
        save_checkpoint(tmp_path / "c.pth.tar", {"epoch": 2})


@pytest.mark.parametrize("name", ["EPERM", "EBUSY", "EACCES", "ESTALE"])
def test_a_temporary_file_that_cannot_be_removed_stays(tmp_path, monkeypatch, name):
    fail(monkeypatch, os, "unlink", always, name)
    fail(monkeypatch, os, "replace", always, "EINVAL")
    with pytest.warns(LacksFeature, match="renames no file"):
        save_checkpoint(tmp_path / "c.pth.tar", {"epoch": 2})
    assert load(tmp_path / "c.pth.tar") == {"epoch": 2}


# --- folders --------------------------------------------------------------------------------------


def hold(path: Path) -> None:
    with holding(RunFolder(path, {}, (), (), "auto", lambda _: None, "results.json")):
        assert (path / "args.json").is_file()


@pytest.mark.parametrize("name", LOCKF.errnos.split())
def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(tmp_path, monkeypatch, capsys, name):
    fail(monkeypatch, fcntl, "lockf", always, name)
    hold(tmp_path / "run")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'run'}: the file system locks no file: see to it")


@pytest.mark.parametrize("name", ["EAGAIN", "EACCES"])
def test_a_lock_that_another_run_has_is_no_missing_feature(tmp_path, monkeypatch, name):
    fail(monkeypatch, fcntl, "lockf", always, name)
    with pytest.raises(InputError, match="another run is working in it"):
        hold(tmp_path / "run")


@pytest.mark.parametrize("name", ["EPERM", "EBUSY", "EROFS"])
def test_a_preempted_that_cannot_be_removed_is_named(tmp_path, monkeypatch, name):
    """Else the script of a job would queue it again for ever."""
    (tmp_path / "PREEMPTED").touch()
    fail(monkeypatch, os, "unlink", lambda path, **_: str(path).endswith("PREEMPTED"), name)
    with pytest.raises(InputError, match="PREEMPTED: cannot be removed"):
        hold(tmp_path)


# --- whole runs -----------------------------------------------------------------------------------

FLAGS = ["--mode", "std", "--epochs", "4", "--prune_epoch", "2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        run_imp(write_images(root / "data"), root / "run", *FLAGS)
    return root


@pytest.fixture
def data(undisturbed, monkeypatch):
    skip_pictures(monkeypatch)
    return undisturbed / "data"


@pytest.mark.slow
@pytest.mark.parametrize("lack", [*LACKS.values(), LOCKF], ids=[*LACKS, "lockf"])
def test_a_run_goes_on_to_the_same_bits_and_tells_once(data, undisturbed, tmp_path, capsys, lack):
    where = (lack.module, lack.call, lack.where, lack.errnos.split()[0])
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, *where)
        die(patch, steps.train_one_epoch, 3)
        with pytest.raises(Interrupted):
            run_imp(data, tmp_path / "run", *FLAGS)
    said = capsys.readouterr().err
    assert said.count("the file system") == (lack.told is not None), said
    assert f"warning: {tmp_path / 'run'}: the file system {lack.told}" in said or not lack.told
    with pytest.MonkeyPatch.context() as patch:
        fail(patch, *where)
        run_imp(data, tmp_path / "run", *FLAGS, "--resume")
    assert_same_run(tmp_path / "run", undisturbed / "run")


@pytest.mark.slow
def test_a_file_system_without_any_of_it_will_do(data, undisturbed, tmp_path, monkeypatch, capsys):
    lacks = [lack for what, lack in LACKS.items() if "open" not in what and "fsync" not in what]
    for lack in (*lacks, LOCKF):
        fail(monkeypatch, lack.module, lack.call, lack.where, lack.errnos.split()[0])
    fail(monkeypatch, os, "fsync", always, "EINVAL")
    run_imp(data, tmp_path / "run", *FLAGS)
    said = capsys.readouterr().err
    assert said.count("the file system") == 5, said
    assert_same_run(tmp_path / "run", undisturbed / "run")


@pytest.mark.slow
def test_a_stop_that_cannot_be_noted_ends_the_run_as_it_should(data, tmp_path, monkeypatch, capsys):
    def stop(*_: Any) -> bool:
        return True

    write = Path.write_text

    def refuse(path: Path, *content: str) -> int:
        if path.name == "PREEMPTED":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *content)

    monkeypatch.setattr("engine.training.StopSignals.requested", stop)
    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr("engine.training.StopSignals.received", 15, raising=False)
    with pytest.raises(SystemExit) as ended:
        run_imp(data, tmp_path / "run", *FLAGS)
    assert ended.value.code == 75
    printed = capsys.readouterr()
    assert "no PREEMPTED could be left (No space left on device)" in printed.err
    assert "after saving" in printed.out
    assert load(tmp_path / "run" / "1-checkpoint.pth.tar")["resume"]["step"] == 1


@pytest.mark.slow
def test_a_read_only_folder_is_refused_in_one_line(data, tmp_path, monkeypatch, capsys):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(run_folder, "open", refuse, raising=False)
    argv = [str(data), *TINY, *HERE, *FLAGS, "--save_dir", str(tmp_path / "run")]
    argv += ["--init", str(data.parent / "run" / "init.pth.tar")]
    line = one_error_line(argv, main_imp_pretrain.main, capsys)
    assert "cannot be written (Read-only file system); name another folder" in line
