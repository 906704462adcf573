"""A place for what is about to be published, which no killed push leaves behind for long."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".kinject-push-"
_FRESH = 60.0  # seconds in which a process surely has locked the directory it made


@contextmanager
def staging_directory(source: Path, *, roomy: bool) -> Iterator[Path]:
    """An empty directory that is removed afterwards, together with those of pushes that were killed.

    Args:
        source: What is published.
        roomy: Make it beside ``source``, where there is room for a model, not in the system's small place for temporary
            files.
    """
    parent, system = source.absolute().parent, Path(tempfile.gettempdir())
    for place in (parent, system):
        _remove_abandoned(place)
    place = parent if roomy and os.access(parent, os.W_OK) else system
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as made:
        descriptor = os.open(made, os.O_RDONLY)
        try:
            _lock(descriptor)
            yield Path(made)
        finally:
            os.close(descriptor)


def _remove_abandoned(place: Path) -> None:
    """Remove this user's staging directories in ``place`` that no process holds."""
    for path in place.glob(f"{_PREFIX}*"):
        try:
            found = path.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _FRESH:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _lock(descriptor):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Hold a directory until its descriptor is closed or the process ends, however it ends.

    Returns:
        Whether it is held: not if another process holds it, or the file system knows no locks.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
