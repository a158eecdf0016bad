"""Atomic writes: a file is written completely or not at all. Standard library only."""

import contextlib
import csv
import json
import os
import pathlib

from mlnt_tf.files.cells import protect_cell

SCRATCH_PREFIX = "writing_"  # Begins the name of a file that is being written.


@contextlib.contextmanager
def replacing(path):
    """Yields a scratch path, whose file replaces `path` at the end of the block.

    If the block raises an exception, the scratch file is removed. A process that is killed at any
    moment leaves either the old file or the new one.

    Args:
      path: pathlib.Path or str. Its directory must exist.

    Yields:
      pathlib.Path in the same directory. The block must write a file to it.
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
    """Removes the scratch files that a killed process has left in a directory or below it."""
    for path in pathlib.Path(directory).rglob(f"{SCRATCH_PREFIX}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def write_text(path, text):
    """Writes a UTF-8 text file atomically. File names that are not UTF-8 are escaped."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path, content):
    """Writes an indented JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path, header, rows):
    """Writes a CSV file atomically. File names that are not UTF-8 are escaped.

    Text that a spreadsheet would run as a formula gets an apostrophe in front, which
    `cells.restore_cell` takes away.

    Args:
      path: pathlib.Path or str.
      header: sequence of column names.
      rows: iterable of sequences of values.
    """
    with (replacing(path) as scratch,
          open(scratch, "w", newline="", encoding="utf-8", errors="backslashreplace") as file):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(map(_without_formulas, rows))


def _without_formulas(row):
    """Returns a row of a table with text cells as `protect_cell` writes them. Numbers stay."""
    return [protect_cell(cell) if isinstance(cell, str) and not _is_number(cell) else cell
            for cell in row]


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True
