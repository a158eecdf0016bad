"""The lock of a run's directory. Standard library only."""

import contextlib
import fcntl
import logging
import os
import pathlib
import socket

from mlnt_tf.config import UserError

LOCK_FILE = "lock"


@contextlib.contextmanager
def hold_lock(directory):
    """Holds `directory` for this process alone; the kernel lets go of it however the process ends.

    Raises:
      UserError: another process holds it.
    """
    path = pathlib.Path(directory) / LOCK_FILE
    with open(path, "a+", encoding="utf-8") as file:
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--output_dir={directory} is in use by {holder or 'another process'}: wait for it, end "
                            "it, or name another directory.") from error
        except OSError as error:  # a file system without locks
            logging.getLogger("absl").warning(
                "%s cannot be locked (%s): see to it yourself that no second run uses it.", directory, error.strerror)
        if holder:
            logging.getLogger("absl").info("%s: %s held it and has ended; its lock is taken over.", directory, holder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
