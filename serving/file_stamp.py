"""A value that tells whether a file has changed since it was read."""

from pathlib import Path
from typing import NamedTuple


class FileStamp(NamedTuple):
    """Differs after a file was written or replaced. See stat(2) for the fields."""

    mtime_ns: int
    inode: int
    size: int


def file_stamp(path: Path | None) -> FileStamp | None:
    """Return a file's stamp; None for no path, no such file, or one that cannot be looked at."""
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return FileStamp(stat.st_mtime_ns, stat.st_ino, stat.st_size)
