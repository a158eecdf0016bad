"""--dataset=csv: a table of paths and labels."""

import csv
import dataclasses
import os
import pathlib
import re

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.listing import SPLIT_NAMES, Listing, build_source, read_class_names


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table, without white space around its cells.

    Attributes:
      line: int, its line in the file.
      path, label, split, true_label: str. The last two are empty if the table does not have them.
    """

    line: int
    path: str
    label: str
    split: str
    true_label: str


def load_csv(config):
    """Returns the `Source` of the table at --data_dir. Paths are relative to its directory.

    Raises:
      UserError: the table cannot be read, or has a mistake; see also `build_source`.
    """
    return build_source(config, *list_table(config))


def list_table(config):
    """Reads the table at --data_dir, without reading the images.

    Returns:
      (root, class names, listings), the arguments of `build_source`.

    Raises:
      UserError: the table cannot be read, or has a mistake.
    """
    table = pathlib.Path(config.data_dir)
    if not config.data_dir or not table.is_file():
        raise UserError(f"--data_dir={config.data_dir} is not a file, but --dataset=csv needs a "
                        "table of paths and labels. Name the table, for example labels.csv.")
    columns = [name.strip() for name in config.csv_columns.split(",")]
    if len(columns) != 4:
        raise UserError(f"--csv_columns={config.csv_columns} must name four columns: path, label, "
                        "split and true label. The table may lack the last two.")
    rows = _read_rows(table, columns)
    class_names = read_class_names(config.class_names) if config.class_names else None
    cells = [(row.line, row.label) for row in rows]
    cells += [(row.line, row.true_label) for row in rows if row.true_label]
    labels = _parse_labels(table, cells, class_names)
    if class_names is None:
        texts = {label: text for text, label in labels.items()}
        class_names = tuple(texts[label] for label in sorted(texts))
    root = table.parent.resolve()
    listed = {}
    for row in rows:
        path = os.path.relpath(row.path, root) if os.path.isabs(row.path) else row.path
        true_label = labels[row.true_label] if row.true_label else -1
        split = _parse_split(table, row)
        listed.setdefault(split, []).append((path, labels[row.label], true_label))
    listings = {split: Listing.from_rows(files) for split, files in listed.items()}
    return root, class_names, listings


def _read_rows(table, columns):
    """Reads and checks the table: list of `Row`. `columns` are the names of the four columns."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            for column in columns[:2]:
                if column not in header:
                    raise UserError(f"--data_dir={table} has no column {column!r}. Its header is "
                                    f"{', '.join(header)!r}. Name the columns of path, label, "
                                    "split and true label in --csv_columns.")
            lines = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--data_dir={table} cannot be read ({error}). Save the table as UTF-8 "
                        "text.") from error
    if not lines:
        raise UserError(f"--data_dir={table} has no rows below its header. Add a row per image.")
    return [_check_row(table, line, cells, columns) for line, cells in lines]


def _check_row(table, line, cells, columns):
    """Returns the `Row` of a dict of cells. Raises UserError if the path or label is missing."""
    if None in cells:
        raise UserError(f"--data_dir={table}, line {line} has more cells than columns. Put quotes "
                        "around a path that contains a comma.")
    path, label, split, true_label = [(cells.get(column) or "").strip() for column in columns]
    if not path or not label:
        raise UserError(f"--data_dir={table}, line {line} has an empty path or label. Fill it in, "
                        "or remove the line.")
    return Row(line, path, label, split, true_label)


def _parse_split(table, row):
    """Returns the split of a row: "train", "validation" or "test"."""
    name = row.split.lower() or "train"
    if name not in SPLIT_NAMES:
        raise UserError(f"--data_dir={table}, line {row.line} has the unknown split {name!r}. "
                        f"Write one of {', '.join(SPLIT_NAMES)}, or nothing for train.")
    return SPLIT_NAMES[name]


def _parse_labels(table, cells, class_names):
    """Maps the texts of label cells to labels.

    The texts are names of classes or numbers.

    Args:
      table: pathlib.Path, for errors.
      cells: list of (line, text).
      class_names: tuple of str, or None.

    Returns:
      dict of text to int.

    Raises:
      UserError: a text is not among the class names, or a number is out of range.
    """
    first_lines = {text: line for line, text in reversed(cells)}
    if class_names and set(first_lines) <= set(class_names):
        return {text: class_names.index(text) for text in first_lines}
    if not all(re.fullmatch(r"-?\d+", text) for text in first_lines):
        if not class_names:
            return {text: label for label, text in enumerate(sorted(first_lines))}
        text = next(text for text in first_lines if text not in class_names)
        raise UserError(f"--data_dir={table}, line {first_lines[text]} has the label {text!r}, "
                        f"which is not among the {len(class_names)} names of --class_names. "
                        "Correct the label, or add the name.")
    labels = {text: int(text) for text in first_lines}
    num_classes = len(class_names) if class_names else len(set(labels.values()))
    for text, label in labels.items():
        if not 0 <= label < num_classes:
            raise UserError(f"--data_dir={table}, line {first_lines[text]} has the label {text}, "
                            f"which is out of range: {num_classes} classes have the labels 0 to "
                            f"{num_classes - 1}. Correct it, or name the classes in "
                            "--class_names=FILE.")
    return labels
