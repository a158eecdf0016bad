"""Files written whole or not at all, and the lock of a run's directory. Standard library only."""

import contextlib
import csv
import fcntl
import json
import logging
import os
import pathlib
import socket

from mlnt_tf.config import UserError

LOCK = "lock"
SCRATCH = "writing_"  # what begins so was being written when a run was killed


@contextlib.contextmanager
def whole(path):
    """A scratch path beside `path` to write to; it takes the place of `path` when the block ends, or is removed.

    A process killed at any moment leaves the old file or the new one.
    """
    path = pathlib.Path(path)
    scratch = path.with_name(SCRATCH + path.name)
    try:
        yield scratch
        with open(scratch, "rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def remove_scratch(directory):
    """Removes what a killed run was writing."""
    for path in pathlib.Path(directory).glob(f"{SCRATCH}*"):
        path.unlink(missing_ok=True)


def write_text(path, text):
    with whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path, content):
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path, header, rows):
    with whole(path) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


@contextlib.contextmanager
def locked(directory):
    """Holds `directory` for this process alone; the kernel lets go of it however the process ends.

    Raises:
      UserError: another process holds it.
    """
    path = pathlib.Path(directory) / LOCK
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
