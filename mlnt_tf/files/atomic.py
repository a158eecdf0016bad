"""Files that are written completely or not at all. Standard library only."""

import contextlib
import csv
import json
import os
import pathlib

SCRATCH_PREFIX = "writing_"  # what begins so was being written when a run was killed


@contextlib.contextmanager
def replacing(path):
    """A scratch path beside `path` to write to; it takes the place of `path` when the block ends, or is removed.

    A process killed at any moment leaves the old file or the new one.
    """
    path = pathlib.Path(path)
    scratch = path.with_name(SCRATCH_PREFIX + path.name)
    try:
        yield scratch
        with open(scratch, "rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def remove_scratch_files(directory):
    """Removes what a killed run was writing."""
    for path in pathlib.Path(directory).glob(f"{SCRATCH_PREFIX}*"):
        path.unlink(missing_ok=True)


def write_text(path, text):
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path, content):
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path, header, rows):
    with replacing(path) as scratch, open(scratch, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
