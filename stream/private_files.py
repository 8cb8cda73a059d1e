"""Files that only their owner may read: they appear when they are complete, and no link is followed to write them."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER_MODE = 0o700


@contextmanager
def private_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for its owner alone (0600), beside `path`; it takes that name when the block has ended without error.

    `replace` False: a file, or a link, of this name stays as it is. Raises OSError, FileExistsError then.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(f"{path} exists")
    # Made anew under a random name, exclusively and with mode 0600.
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)  # replaces a link, not the file that it leads to
        else:
            _name_once(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner alone, in the place of an earlier one. Raises OSError."""
    with private_file(path) as file:
        file.write(content)


def private_folder(path: Path) -> None:
    """Make a folder for its owner alone (0700), with the folders above it; an existing one keeps its mode.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=FOLDER_MODE)


def _name_once(part: Path, path: Path) -> None:
    """Give a file its name, unless that was taken meanwhile. Raises FileExistsError, OSError."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the moment between the look and the renaming remains
        if os.path.lexists(path):
            raise FileExistsError(f"{path} exists") from None
        part.replace(path)
