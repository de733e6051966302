import os
from pathlib import Path

import pytest

from crispseg.io.atomic import atomic_path, check_target
from crispseg.types import InputError


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert listing(tmp_path) == ["out.png"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert listing(tmp_path) == ["out.png"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        with atomic_path(tmp_path / "out.bin") as temporary:
            temporary.write_bytes(b"x")
    finally:
        os.umask(previous)
    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "file.txt")
    with atomic_path(link) as temporary:
        temporary.write_text("through")
    assert link.is_symlink()
    assert (tmp_path / "real" / "file.txt").read_text() == "through"


def test_a_folder_that_takes_the_name_meanwhile_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"out\.bin: cannot be written"),
        atomic_path(tmp_path / "out.bin"),
    ):
        (tmp_path / "out.bin").mkdir()
    assert listing(tmp_path) == ["out.bin"]


def test_check_target_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    check_target(target)
    assert listing(tmp_path) == []
    target.write_bytes(b"old")
    check_target(target)
    assert target.read_bytes() == b"old"
    assert listing(tmp_path) == ["out.png"]


def test_bad_targets_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for path, message in {
        tmp_path: "is a folder",
        tmp_path / "missing" / "out.png": "does not exist; create it first",
        tmp_path / "file" / "out.png": "is a file, not a folder",
        tmp_path / "pipe": "is a device or pipe",
        tmp_path / ("x" * 300): "cannot be written",
        tmp_path / "nul\0byte": "cannot be written",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            check_target(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=message), atomic_path(path):
            raise AssertionError("the block must not run")
    assert listing(tmp_path) == ["file", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere, whatever the mode says")
def test_a_folder_or_file_without_write_permission(tmp_path: Path) -> None:
    protected = tmp_path / "protected.png"
    protected.write_bytes(b"old")
    protected.chmod(0o444)
    with pytest.raises(InputError, match="write-protected"):
        check_target(protected)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_target(tmp_path / "new.png")
    finally:
        tmp_path.chmod(0o755)
