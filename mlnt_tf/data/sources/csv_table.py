"""--dataset=csv: a table of paths and labels."""

import collections
import pathlib

from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.sources import table_columns
from mlnt_tf.data.sources.class_names import (
    ClassNames, format_some, number_of, read_class_names, resolve_labels)
from mlnt_tf.data.sources.find_files import FileFinder
from mlnt_tf.data.sources.listing import SPLIT_NAMES, Listing, build_source
from mlnt_tf.data.sources.table_file import DELIMITERS, read_table

UNKNOWN = -1


def load_csv(config):
    """Returns the `Source` of the table at --data_dir. Paths are relative to its directory.

    Raises:
      UserError: the table cannot be read, or has a mistake; see also `build_source`.
    """
    return build_source(config, *list_table(config))


def list_table(config):
    """Reads the table at --data_dir, without reading the images, and logs how it was read.

    Returns:
      (root, class names, listings), the arguments of `build_source`.

    Raises:
      UserError: the table cannot be read, or has a mistake.
    """
    path = pathlib.Path(config.data_dir)
    if not config.data_dir or not path.is_file():
        raise UserError(f"--data_dir={config.data_dir} is not a file, but --dataset=csv needs a "
                        "table of paths and labels. Name the table, for example labels.csv.")
    names = table_columns.column_names(config)
    table = read_table(path, columns=names)
    columns = table_columns.find_columns(table, names, config)
    if not table.rows:
        raise UserError(f"--data_dir={path} has no rows below its header. Add a row per image.")
    rows = _Rows(table, columns, config)
    class_names = rows.resolve(config)
    root = path.parent.resolve()
    files = _find_files(rows, root)
    groups = _number_groups(rows.cells["group"])
    members = collections.defaultdict(list)
    for row in range(len(files)):
        members[rows.split(row)].append(row)
    listings = {split: Listing.from_rows(
        [(files[row], rows.labels[row], rows.true_labels[row]) for row in positions],
        records=[rows.cells["path"][row] for row in positions],
        groups=[groups[row] for row in positions]) for split, positions in members.items()}
    rows.report(class_names)
    return root, class_names, listings


class _Rows:
    """The cells of a table by their role, and the labels that they stand for.

    Attributes:
      cells: dict of role to list of str. Cells that mean "unknown" are empty, except for paths.
      labels, true_labels: lists of int, -1 where unknown; set by `resolve`.
    """

    def __init__(self, table, columns, config):
        self.table, self.columns = table, columns
        self.place = f"--data_dir={table.path}"
        self.missing = {text.strip() for text in config.missing_values.split(",")} | {""}
        self.unknown = {}
        self.cells = {role: self._column(role)
                      for role in ("label", "true_label", "split", "group")}
        self.cells["path"] = [row[columns.path] for row in table.rows]
        if columns.one_hot:
            self.cells["label"] = table_columns.one_hot_labels(table, columns)
        empty = next((row for row, path in enumerate(self.cells["path"]) if not path), None)
        if empty is not None:
            raise UserError(f"{self.place}, line {table.lines[empty]} has an empty path. Fill it "
                            "in, or remove the line.")
        self._check_single_labels()

    def _column(self, role):
        """Returns the cells of a role with "" for unknown, and counts how unknown is written."""
        index = getattr(self.columns, role)
        if index is None:
            return [""] * len(self.table.rows)
        cells = [row[index] for row in self.table.rows]
        missing = self.missing
        numbers = [number_of(cell) for cell in cells if cell not in missing - {"-1"}]
        if role in ("split", "group") or any(number is None for number in numbers):
            missing = missing - {"-1"}
        elif "-1" in missing:
            missing = missing | {cell for cell in cells if number_of(cell) == -1}
        counts = collections.Counter(cell for cell in cells if cell in missing)
        if role in ("label", "true_label") and counts:
            self.unknown[self.table.header[index]] = counts
        return ["" if cell in missing else cell for cell in cells]

    def _check_single_labels(self):
        """Raises UserError if a cell lists several labels that other cells hold alone."""
        known = set(self.cells["label"])
        for row, cell in enumerate(self.cells["label"]):
            parts = [part.strip(" []'\"") for mark in ";|," if mark in cell
                     for part in cell.split(mark)]
            if parts and all(part in known for part in parts):
                raise UserError(f"{self.place}, line {self.table.lines[row]} has several labels "
                                f"({cell}), but training needs one class per image. Keep one of "
                                "them, or leave the cell empty.")

    def describe(self, column, text):
        """Returns where a label occurs for the first time: "--data_dir=X, line 3"."""
        role = "true_label" if column == self._name("true_label") else "label"
        return f"{self.place}, line {self.table.lines[self.cells[role].index(text)]}"

    def _name(self, role):
        index = getattr(self.columns, role)
        return None if index is None else self.table.header[index]

    def resolve(self, config):
        """Sets `labels` and `true_labels`. Returns the tuple of class names.

        Raises:
          UserError: no row has a label, or the labels do not fit each other or --class_names.
        """
        classes = read_class_names(config.class_names) if config.class_names else None
        if not any(self.cells["label"]):
            raise UserError(f"{self.place} has no label in any row. Fill in the column "
                            f"{self._name('label')!r}, or correct --missing_values.")
        texts = {self._name("label") or "label": self.cells["label"]}
        if self.columns.true_label is not None:
            texts[self._name("true_label")] = self.cells["true_label"]
        if self.columns.one_hot and classes is None:
            classes = ClassNames(tuple(self.table.header[column]
                                       for column in self.columns.one_hot))
        different = {name: list(dict.fromkeys(filter(None, column)))
                     for name, column in texts.items()}
        class_names, labels = resolve_labels(different, classes, self.describe)
        by_role = list(labels.values())
        self.labels = [by_role[0].get(cell, UNKNOWN) for cell in self.cells["label"]]
        self.true_labels = [by_role[-1].get(cell, UNKNOWN) for cell in self.cells["true_label"]]
        for row, true_label in enumerate(self.true_labels):
            # Validation and test need no given label if the true one is known.
            if self.labels[row] == UNKNOWN and self.split_name(row) != "train":
                self.labels[row] = true_label
        return class_names

    def split(self, row):
        """Returns the split of a row, which is train for a row without any label."""
        return "train" if self.labels[row] == UNKNOWN else self.split_name(row)

    def split_name(self, row):
        """Returns the split that a row names: "train", "validation" or "test"."""
        name = self.cells["split"][row].lower()
        if name in ("", "unassigned"):
            return "train"
        if name not in SPLIT_NAMES:
            raise UserError(f"{self.place}, line {self.table.lines[row]} has the unknown split "
                            f"{name!r}. Write one of {', '.join(SPLIT_NAMES)}, or nothing for "
                            "train.")
        return SPLIT_NAMES[name]

    def report(self, class_names):
        """Logs how the table was read."""
        roles = {"path": "path", "label": "label", "split": "split", "true label": "true_label",
                 "group": "group"}
        names = ", ".join(f"{role} = {self._name(attribute)}" for role, attribute in roles.items()
                          if self._name(attribute) is not None)
        if self.columns.one_hot:
            names += f", label = the {len(self.columns.one_hot)} one-hot columns"
        logging.info("%s: %d rows, cells between %s; %s; %d classes: %s", self.table.path,
                     len(self.table.rows), DELIMITERS[self.table.delimiter], names,
                     len(class_names), format_some(class_names))
        for column, counts in self.unknown.items():
            spelled = ", ".join(f"{text or 'empty'!r} {count}x" for text, count in counts.items())
            logging.info("Column %s: %d cells are unknown (%s). --missing_values lists what means "
                         "unknown.", column, sum(counts.values()), spelled)
        alike = collections.defaultdict(list)
        for name in class_names:
            alike[" ".join(name.casefold().split())].append(name)
        for names in alike.values():
            if len(names) > 1:
                logging.warning("The classes %s differ only in letter case or white space. Correct "
                                "the table if they are the same class.", ", ".join(names))


def _find_files(rows, root):
    """Returns the path of each row relative to the root; as written if there is no such file.

    If the first paths exist only in one subdirectory of the root, all paths start from there.

    Raises:
      UserError: the paths are addresses, or two files fit one path.
    """
    paths, lines = rows.cells["path"], rows.table.lines
    for line, path in zip(lines, paths):
        if "://" in path:
            raise UserError(f"{rows.place}, line {line}: {path} is an address, but images are read "
                            "from local files. Copy the images here, and write their local paths "
                            "in the table.")
    finder = FileFinder(str(root))
    found = []
    for line, path in zip(lines, paths):
        try:
            found.append(finder.find(path))
        except UserError as error:
            raise UserError(f"{rows.place}, line {line}: {error}") from error
    base = None if any(found) else finder.find_base(paths)
    if base is not None:
        logging.info("The paths of %s start from its subdirectory %s.", rows.table.path, base)
        found = [finder.find(f"{base}/{path}") for path in paths]
    elif finder.num_respelled:
        logging.info("%d of %d paths were found with another suffix, letter case or Unicode form.",
                     finder.num_respelled, len(paths))
    return [file or path for file, path in zip(found, paths)]


def _number_groups(cells):
    """Returns a number for each cell: the same for equal text, -1 for an unknown group."""
    numbers = {cell: number for number, cell in enumerate(dict.fromkeys(filter(None, cells)))}
    return [numbers.get(cell, UNKNOWN) for cell in cells]
