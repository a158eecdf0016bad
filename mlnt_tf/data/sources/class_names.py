"""Names of classes: files that list them, and labels that are names or numbers."""

import csv
import dataclasses
import json
import re

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.table_file import DELIMITERS, read_text

NUMBER = re.compile(r"-?[0-9]{1,18}(\.0{0,9})?")
MAX_LISTED = 8  # Labels that a message lists.


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """The classes that --class_names gives.

    Attributes:
      names: tuple of at least two different str.
      numbers: tuple of int in ascending order, the label in the data that each name stands for.
        None if the file only lists names.
    """

    names: tuple
    numbers: tuple = None


def read_class_names(path, flag="--class_names"):
    """Reads class names from a text file with one per line, from JSON or from an id,name table.

    JSON is a list of names, {"0": name, …} or {name: 0, …}. A table has two columns, one of which
    holds different integers; it may have a header.

    Args:
      path: str or pathlib.Path.
      flag: str, the flag that names the file, for errors.

    Returns:
      `ClassNames`.

    Raises:
      UserError: the file cannot be read, or does not hold such names.
    """
    place = f"{flag}={path}"
    text = read_text(path, flag=flag)
    if str(path).lower().endswith(".json") or text.lstrip().startswith(("{", "[")):
        classes = _parse_json(place, text)
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        classes = _parse_pairs(lines) or ClassNames(tuple(lines))
    names = classes.names
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise UserError(f"{place} must name at least two classes, and each only once.")
    if classes.numbers and len(set(classes.numbers)) < len(names):
        raise UserError(f"{place} gives two names to one number. Give each number one name.")
    return classes


def _parse_json(place, text):
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not valid JSON ({error}). Correct it, or write one name per "
                        "line.") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return ClassNames(tuple(name.strip() for name in content))
    if isinstance(content, dict):
        pairs = list(content.items())
        if all(isinstance(name, str) and NUMBER.fullmatch(number) for number, name in pairs):
            return _sorted_by_number((int(number), name.strip()) for number, name in pairs)
        if all(type(number) is int for _, number in pairs):
            return _sorted_by_number((number, name.strip()) for name, number in pairs)
    raise UserError(f"{place} must be a list of names or {{\"0\": \"name\", …}}. Change it, or "
                    "write one name per line.")


def _parse_pairs(lines):
    """Returns the `ClassNames` of a table of numbers and names, or None if it is no such table."""
    for delimiter in DELIMITERS:
        try:
            rows = [[cell.strip() for cell in row]
                    for row in csv.reader(lines, delimiter=delimiter)]
        except csv.Error:
            continue
        if not rows or any(len(row) != 2 for row in rows):
            continue
        for number in (0, 1):
            for body in (rows, rows[1:]):
                if body and all(re.fullmatch("-?[0-9]{1,18}", row[number]) for row in body):
                    return _sorted_by_number((int(row[number]), row[1 - number]) for row in body)
    return None


def _sorted_by_number(pairs):
    pairs = sorted(pairs)
    return ClassNames(tuple(name for _, name in pairs), tuple(number for number, _ in pairs))


def number_of(text):
    """Returns the integer that a label is written as, such as 3 for "3", "03" or "3.0", or None."""
    return int(text.partition(".")[0]) if NUMBER.fullmatch(text) else None


def resolve_labels(columns, classes, describe):
    """Maps the texts of labels to classes.

    Names are sorted. Numbers from 0 without a gap are classes, and others are names in numeric
    order. With `classes`, a text is one of their names or numbers.

    Args:
      columns: dict of column name to list of different texts, in the order of the file.
      classes: `ClassNames` or None.
      describe: function of (column, text) that says where the text is, for errors.

    Returns:
      (tuple of class names, dict of column to {text: int}).

    Raises:
      UserError: a label does not fit the names, or one column has names and the other numbers.
    """
    numeric = {name: all(number_of(text) is not None for text in texts)
               for name, texts in columns.items() if texts}
    if classes is not None:
        return classes.names, {name: _match_names(name, texts, classes, columns, describe)
                               for name, texts in columns.items()}
    if len(set(numeric.values())) > 1:
        named, numbered = sorted(numeric, key=numeric.get)
        raise UserError(f"{describe(named, columns[named][0])} has the label "
                        f"{columns[named][0]!r} in column {named!r}, but column {numbered!r} has "
                        f"numbers such as {columns[numbered][0]}. Write both columns alike, or "
                        "name the numbers with --class_names=FILE.")
    texts = dict.fromkeys(text for column in columns.values() for text in column)
    if not all(numeric.values()):
        names = tuple(sorted(texts))
        labels = {text: label for label, text in enumerate(names)}
    else:
        numbers = sorted({number_of(text) for text in texts})
        position = {number: label for label, number in enumerate(numbers)}
        labels = {text: position[number_of(text)] for text in texts}
        written = {}
        for text, label in labels.items():
            written.setdefault(label, text.partition(".")[0])
        names = tuple(written[label] for label in range(len(numbers)))
    return names, {name: {text: labels[text] for text in column}
                   for name, column in columns.items()}


def _match_names(column, texts, classes, columns, describe):
    """Returns {text: label} of one column, by the names or numbers of the classes."""
    names = {name: label for label, name in enumerate(classes.names)}
    if all(text in names for text in texts):
        return {text: names[text] for text in texts}
    if any(number_of(text) is None for text in texts):
        text = next(text for text in texts if text not in names)
        raise UserError(f"{describe(column, text)} has the label {text!r}, which is not among the "
                        f"{len(names)} names of --class_names. Correct the label, or add the name.")
    numbers = classes.numbers or _numbers_of_lines(classes.names, columns, describe)
    labels = {number: label for label, number in enumerate(numbers)}
    for text in texts:
        if number_of(text) not in labels:
            raise UserError(f"{describe(column, text)} has the label {text}, which is out of "
                            f"range: --class_names names the labels {format_some(numbers)}. "
                            "Correct the label, or add the name.")
    return {text: labels[number_of(text)] for text in texts}


def _numbers_of_lines(names, columns, describe):
    """Returns the labels that the lines of a list of names stand for: from 0, or from 1.

    A list with more names than labels is refused, because one line too many would shift all names.
    """
    found = sorted({number_of(text) for texts in columns.values() for text in texts
                    if number_of(text) is not None})
    count = len(names)
    if found == list(range(1, count + 1)):
        return tuple(found)
    for column, texts in columns.items():
        for text in texts:
            if not 0 <= (number_of(text) or 0) < count:
                raise UserError(
                    f"{describe(column, text)} has the label {text}, which is out of range: the "
                    f"{count} names of --class_names are for the labels 0 to {count - 1}. Correct "
                    "it, or give each label its name in a table of id,name.")
    if found[-1] + 1 != count:
        raise UserError(
            f"--class_names lists {count} names, from {names[0]!r} to {names[-1]!r}, but the "
            f"labels end at {found[-1]}. Remove lines that are no names. If the last classes have "
            "no images, write a table of id,name instead.")
    return tuple(range(count))


def format_some(values):
    """Returns the first few values as text: "1, 2, 3, …"."""
    text = ", ".join(str(value) for value in values[:MAX_LISTED])
    return text + (", …" if len(values) > MAX_LISTED else "")
