"""--dataset=csv: a table of paths and labels."""

import csv
import os
import pathlib
import re

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.listing import SPLIT_NAMES, Listing, read_class_names, build_source


def load_csv(config):
    """--dataset=csv: --data_dir names the table; paths count from its directory."""
    table = pathlib.Path(config.data_dir)
    names = [name.strip() for name in config.csv_columns.split(",")]
    if not config.data_dir or not table.is_file():
        raise UserError(f"--data_dir={config.data_dir} is no file: --dataset=csv takes a table of paths and labels.")
    if len(names) != 4:
        raise UserError(f"--csv_columns={config.csv_columns} must name four columns, of path, label, split and true "
                        "label; the last two need not be in the table.")
    path_column, label_column, split_column, true_column = names
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            for column in (path_column, label_column):
                if column not in header:
                    raise UserError(f"--data_dir={table} has no column {column!r}, its header is {', '.join(header)!r}: "
                                    "name the columns of path, label, split and true label in --csv_columns.")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--data_dir={table} cannot be read ({error}): write a table in UTF-8.") from error
    if not rows:
        raise UserError(f"--data_dir={table} has no rows below its header.")

    def cell(row, column):
        return (row.get(column) or "").strip()

    for line, row in rows:
        if None in row:
            raise UserError(f"--data_dir={table}, line {line}: more cells than columns: quote a path that holds a comma.")
        if not cell(row, path_column) or not cell(row, label_column):
            raise UserError(f"--data_dir={table}, line {line}: the path or the label is empty.")
    class_names = read_class_names(config.class_names) if config.class_names else None
    number_of = label_numbers(table, [(line, cell(row, column)) for column in (label_column, true_column)
                                      for line, row in rows if cell(row, column)], class_names)
    listed, root = {}, table.parent.resolve()
    for line, row in rows:
        split = cell(row, split_column).lower()
        if split and split not in SPLIT_NAMES:
            raise UserError(f"--data_dir={table}, line {line}: the split {split!r} is not known: write one of "
                            f"{', '.join(SPLIT_NAMES)}, or nothing for train.")
        true = cell(row, true_column)
        path = cell(row, path_column)
        path = os.path.relpath(path, root) if os.path.isabs(path) else path
        listed.setdefault(SPLIT_NAMES.get(split, "train"), []).append(
            (path, number_of[cell(row, label_column)], number_of[true] if true else -1))
    text_of = {number: text for text, number in number_of.items()}
    names = class_names or tuple(text_of[number] for number in sorted(text_of))
    return build_source(config, root, names, {name: Listing.of(rows) for name, rows in listed.items()})


def label_numbers(table, cells, class_names):
    """{text of a label: its number} of (line, text) cells, by name or by number.

    Raises:
      UserError: a name or number beyond the classes, numbers with a gap.
    """
    texts = {text: line for line, text in reversed(cells)}
    if class_names and set(texts) <= set(class_names):
        return {text: class_names.index(text) for text in texts}
    if not all(re.fullmatch(r"-?\d+", text) for text in texts):
        if class_names:
            text = next(text for text in texts if text not in class_names)
            raise UserError(f"--data_dir={table}, line {texts[text]}: the label {text!r} is not among the "
                            f"{len(class_names)} names of --class_names.")
        return {text: number for number, text in enumerate(sorted(texts))}
    numbers = {text: int(text) for text in texts}
    count = len(class_names) if class_names else len(set(numbers.values()))
    for text, number in numbers.items():
        if not 0 <= number < count:
            raise UserError(f"--data_dir={table}, line {texts[text]}: the label {text} is out of range: {count} classes "
                            f"have the numbers 0 to {count - 1}; mend it, or name the classes in --class_names=FILE.")
    return numbers
