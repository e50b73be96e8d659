"""Files that are either the old ones or the new ones, whole, and mistakes told in one line."""

import contextlib
import os
import sys


class Mistake(SystemExit):
    """Ends the program with a message of one line and exit code 1."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))


@contextlib.contextmanager
def replaced_by(path):
    """A name to write a file under that takes the place of `path` when the block ends well.

    Otherwise, and when the power fails, `path` stays what it was: the bytes are on the disk
    before the name is. A link stays one. Raises Mistake where the disk is full, the folder cannot
    be written, or `path` is no file, as /dev/null.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise Mistake(f"{path}: cannot be written: it is not a file")
    temporary = path + ".tmp"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(os.path.dirname(path) or ".")
    except OSError as error:
        _remove(temporary)
        kept = "; the file that was there is kept" if os.path.exists(path) else ""
        raise Mistake(f"{path}: cannot be written: {error.strerror or error}{kept}") from error
    except BaseException:
        _remove(temporary)
        raise


@contextlib.contextmanager
def replacing(path):
    """The same as a binary file."""
    with replaced_by(path) as temporary:
        with open(temporary, "wb") as file:
            yield file


def write_text(path, text):
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def make_folder(path):
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise Mistake(f"{path}: cannot be made: {error.strerror}") from error


def run_main(main):
    """Runs a script's main(); what the system refuses (a full disk, a missing file) is one line."""
    try:
        sys.exit(main())
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Mistake(f"{where}{error.strerror or error}") from error


def _sync(path):
    """Puts a file's bytes, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path):
    for name in (path, path + ".tmp"):  # a writer may have had a temporary file of its own
        with contextlib.suppress(OSError):
            os.remove(name)
