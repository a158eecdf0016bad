"""The lock of an output directory. Standard library only."""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import socket
import time

from mlnt_tf.config import UserError

LOCK_FILE = "lock"
ABANDONED_AFTER = 60.0  # seconds


def refuse_if_held(directory):
    """Raises UserError if another process holds the lock of an output directory.

    Args:
      directory: pathlib.Path or str. May be missing.
    """
    path = pathlib.Path(directory) / LOCK_FILE
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(directory, file.read().strip()) from error
        except OSError:  # The file system has no locks.
            return


def remove_abandoned(directories):
    """Removes the directories whose lock no process holds any more, after it was killed.

    A directory without a lock, of another user or younger than ABANDONED_AFTER seconds is left
    alone: its process may not have locked it yet.

    Args:
      directories: iterable of pathlib.Path.
    """
    for directory in directories:
        try:
            age = time.time() - (directory / LOCK_FILE).stat().st_mtime
            refuse_if_held(directory)
        except (OSError, UserError):
            continue
        if age > ABANDONED_AFTER:
            shutil.rmtree(directory, ignore_errors=True)


def _in_use(directory, holder):
    return UserError(f"--output_dir={directory} is in use by {holder or 'another process'}. Wait "
                     "for it, end it, or choose another directory.")


@contextlib.contextmanager
def hold_lock(directory):
    """Reserves an output directory for this process within a block.

    The kernel releases the lock when the process ends, even if it is killed. On a file system
    without locks, a warning is logged instead.

    Args:
      directory: pathlib.Path or str, an existing directory.

    Raises:
      UserError: another process holds the lock.
    """
    logger = logging.getLogger("absl")
    path = pathlib.Path(directory) / LOCK_FILE
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(directory, holder) from error
        except OSError as error:  # The file system has no locks.
            logger.warning("%s cannot be locked (%s). Do not start a second run in it.", directory,
                           error.strerror)
        if holder:
            logger.info("%s: the lock of %s, which has ended, is taken over", directory, holder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
