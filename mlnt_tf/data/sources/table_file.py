"""Reads a table of text: its encoding, its delimiter, its header and its rows."""

import csv
import dataclasses
import gzip
import io
import itertools
import os
import pathlib
import stat
import zlib

from mlnt_tf.config import UserError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_ROWS = 20  # Rows that the delimiter is chosen by.
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
# The first bytes of files that users take for tables of text.
OTHER_FORMATS = {b"PK\x03\x04": "a spreadsheet or ZIP archive", b"PAR1": "a Parquet file",
                 b"\xd0\xcf\x11\xe0": "an old spreadsheet", b"\x89PNG": "an image",
                 b"\xff\xd8\xff": "an image", b"SQLite format 3": "a database"}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as it is written, without white space around its cells and without empty rows.

    Attributes:
      path: pathlib.Path.
      header: list of str, the names of the columns.
      rows: list of list of str, each as long as the header.
      lines: list of int, the line in the file at which each row begins, from 1.
      delimiter: str.
    """

    path: pathlib.Path
    header: list
    rows: list
    lines: list
    delimiter: str


def read_table(path, *, columns=(), flag="--data_dir"):
    """Reads a table with a header. Any of DELIMITERS, gzip and UTF-16 are recognized.

    Args:
      path: pathlib.Path or str.
      columns: names of columns, of which the right delimiter finds the most.
      flag: str, the flag that names the file, for errors.

    Returns:
      `Table`.

    Raises:
      UserError: the file cannot be read, a quotation mark is not closed, or a row has more cells
        than the header.
    """
    place = f"{flag}={path}"
    lines = list(io.StringIO(read_text(path, flag=flag), newline=""))
    delimiter = _find_delimiter(lines, columns)
    numbers, rows = _parse(place, lines, delimiter)
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    numbers = numbers[1:]
    for line, row in zip(numbers, rows):
        if any(row[len(header):]):
            raise UserError(f"{place}, line {line} has more cells than columns. Put quotes around "
                            f"a cell that contains one of the {DELIMITERS[delimiter]} between "
                            "cells.")
        row[:] = row[:len(header)] + [""] * (len(header) - len(row))
    return Table(pathlib.Path(path), header, rows, numbers, delimiter)


def read_text(path, *, flag):
    """Returns the text of a regular file in UTF-8 or UTF-16, which may be compressed by gzip.

    Raises:
      UserError: it is no such file. A FIFO or device is not opened.
    """
    place = f"{flag}={path}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{place} is not a regular file. Name a text file.")
        content = pathlib.Path(path).read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{place} cannot be read ({reason}). Name a text file.") from error
    for magic, kind in OTHER_FORMATS.items():
        if content.startswith(magic):
            raise UserError(f"{place} is {kind}. Save the table as CSV, in UTF-8.")
    try:
        text = content.decode(_guess_encoding(content))
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise UserError(f"{place} cannot be read, because line {line} is not UTF-8 text "
                        f"(byte {content[error.start]:#04x}). Save it as UTF-8.") from error
    if "\0" in text:
        line = text[:text.index("\0")].count("\n") + 1
        raise UserError(f"{place} cannot be read, because line {line} contains a null character. "
                        "Save it as UTF-8 text.")
    return text


def _guess_encoding(content):
    """Returns the encoding that the byte order mark or, without one, the null bytes suggest."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return encoding
    even, odd = content[0:200:2], content[1:200:2]
    if odd and odd.count(0) > 0.8 * len(odd) and not even.count(0):
        return "utf-16-le"
    if even and even.count(0) > 0.8 * len(even) and not odd.count(0):
        return "utf-16-be"
    return "utf-8"


def _find_delimiter(lines, columns):
    """Returns the delimiter that finds the most columns and then splits the rows most evenly."""
    def score(delimiter):
        try:
            rows = list(itertools.islice(csv.reader(lines, delimiter=delimiter), SAMPLE_ROWS))
        except csv.Error:
            return 0, False, 0
        rows = [[cell.strip() for cell in row] for row in rows if any(row)]
        header = rows[0] if rows else []
        is_even = len(header) > 1 and all(len(row) == len(header) for row in rows)
        return len(set(columns) & set(header)), is_even, len(header)

    return max(DELIMITERS, key=score)


def _parse(place, lines, delimiter):
    """Returns (first line of each row, rows), without empty rows."""
    reader = csv.reader(lines, delimiter=delimiter)
    numbers, rows, stop = [], [], 0
    try:
        for cells in reader:
            start, stop = stop, reader.line_num
            if stop > start + 1 or stop == len(lines):
                _check_quotes(place, lines[start:stop], start + 1, delimiter)
            cells = [cell.strip() for cell in cells]
            if any(cells):
                numbers.append(start + 1)
                rows.append(cells)
    except csv.Error as error:
        raise UserError(f"{place}, line {stop + 1} cannot be read ({error}). Close its quotation "
                        "marks.") from error
    return numbers, rows


def _check_quotes(place, lines, number, delimiter):
    """Raises UserError if a row of several lines has a quotation mark that is not closed."""
    if '"' not in lines[0]:
        return
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        is_open = "unexpected end" in str(error)
        if is_open or len(lines) > 1:
            raise UserError(f"{place}, line {number} has a quotation mark that is not closed. "
                            "Close it, or remove it.") from error
