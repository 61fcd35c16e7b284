"""Writing files so that nobody ever sees half of one."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary name beside `path` that becomes `path` on success.

    The temporary name keeps the suffix (Keras decides the format by it) and the
    folder (so that the rename is atomic). If the body raises, the temporary file is
    removed and `path` stays what it was.

    Args:
        path: The file to write. Missing parent folders are created.

    Yields:
        The name to write to.

    Raises:
        OSError: If the folder can't be created or written to.
    """
    path = pathlib.Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        # mkstemp made it private to its owner; give it what a plain open() would.
        temporary.chmod(0o666 & ~_umask())
        with _naming(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike) -> pathlib.Path:
    """Check that the file `path` can be written, before the work that fills it.

    Nothing is left behind, missing folders are not created yet.

    Args:
        path: The file that will be written by `replacing`.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        OSError: If `path` is a folder, or its folder can't be created or written to.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with _naming(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=folder)
        os.close(handle)
        os.unlink(name)
    return path


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Let an OSError name the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}") from error


def _umask() -> int:
    # There is no way to read the umask but to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
