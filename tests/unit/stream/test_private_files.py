"""Files for their owner alone, whole or not there at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from stream.private_files import private_file, private_folder, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def test_only_the_owner_may_read_a_file_and_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    private_folder(folder)
    write_private(folder / "file", b"1")
    write_private(folder / "file", b"2")
    assert (mode(folder), mode(folder / "file")) == (0o700, 0o600)
    assert (folder / "file").read_bytes() == b"2"
    folder.chmod(0o750)
    private_folder(folder)
    assert mode(folder) == 0o750, "somebody chose that"


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    write_private(tmp_path / "file", b"before")
    with pytest.raises(TypeError):
        write_private(tmp_path / "file", None)  # type: ignore[arg-type]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_private(tmp_path / "link", b"1")
    assert not (tmp_path / "link").is_symlink()
    assert not (tmp_path / "target").exists()


def test_an_existing_name_is_kept_even_one_that_appears_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), private_file(dangling, replace=False):
        pass
    for links in (True, False):
        if not links:
            monkeypatch.setattr(Path, "hardlink_to", _no_links)
        with private_file(tmp_path / f"new-{links}", replace=False) as file:
            file.write(b"1")
        assert (tmp_path / f"new-{links}").read_bytes() == b"1"
        with pytest.raises(FileExistsError), private_file(tmp_path / f"late-{links}", replace=False):
            (tmp_path / f"late-{links}").write_bytes(b"theirs")
        assert (tmp_path / f"late-{links}").read_bytes() == b"theirs"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def _no_links(path: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "no links here", str(path), None, str(target))
