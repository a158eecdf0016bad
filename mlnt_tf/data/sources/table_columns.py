"""Which column of a table holds what, and the advice if that is not clear."""

import dataclasses
import os

from mlnt_tf.config import UserError
from mlnt_tf.data.sources.class_names import format_some
from mlnt_tf.data.sources.find_files import SUFFIXES
from mlnt_tf.data.sources.listing import SPLIT_NAMES

DEFAULT_NAMES = ("path", "label", "split", "true_label")
SAMPLE_ROWS = 50


@dataclasses.dataclass(frozen=True)
class Columns:
    """Positions of columns in the header; None if the table lacks the column.

    Attributes:
      path, label, split, true_label, group: int or None.
      one_hot: tuple of int, the columns of 0 and 1 that take the place of the label, or ().
    """

    path: int
    label: int
    split: int
    true_label: int
    group: int
    one_hot: tuple = ()


def column_names(config):
    """Returns the names of the columns of path, label, split and true label: list of str.

    Columns that --csv_columns does not name have their default names.

    Raises:
      UserError: --csv_columns names more than four columns, or one twice.
    """
    names = [name.strip() for name in config.csv_columns.split(",")]
    given = [name for name in names if name not in ("", "-")]
    if len(names) > 4 or not names[0] or len(set(given)) < len(given):
        raise UserError(f"--csv_columns={config.csv_columns} must name one to four different "
                        "columns: path, label, split and true label.")
    return names + ["-" if name in names else name for name in DEFAULT_NAMES[len(names):]]


def find_columns(table, names, config):
    """Returns the `Columns` of a table.

    Args:
      table: `Table`.
      names: see `column_names`.
      config: `Config`.

    Raises:
      UserError: a column is missing or occurs twice, or the table has no header.
    """
    path, label, split, true_label = [_find(table, name) for name in names]
    place = f"--data_dir={table.path}"
    if _looks_like_data(table, path):
        raise UserError(f"{place} has no header, because its first row looks like data "
                        f"({format_some(table.header)}). Put this line above it: "
                        f"{table.delimiter.join(_suggest_header(table))}")
    if path is None:
        raise UserError(f"{place} has no column {names[0]!r}. Its header is "
                        f"{', '.join(table.header)!r}. Name the columns of path and label: "
                        f"{_suggest_flag(table)}")
    group = None
    if config.group_column:
        group = _find(table, config.group_column)
        if group is None:
            raise UserError(f"--group_column={config.group_column} is not a column of {table.path}."
                            f" Its header is {', '.join(table.header)!r}.")
    others = (path, split, true_label, group)
    one_hot = _find_one_hot(table, others)
    if label is None:
        if not one_hot:
            raise UserError(f"{place} has no column {names[1]!r}. Its header is "
                            f"{', '.join(table.header)!r}. Name the columns of path and label: "
                            f"{_suggest_flag(table)}")
        _check_one_hot(table, one_hot)
    elif names[1] != DEFAULT_NAMES[1] and label in one_hot and _sums_to_one(table, one_hot):
        raise UserError(f"{place} is a one-hot table, and --csv_columns names only "
                        f"{table.header[label]!r} of its columns "
                        f"{format_some([table.header[column] for column in one_hot])}. Name only "
                        f"the path: --csv_columns={table.header[path]}")
    else:
        one_hot = ()
    return Columns(path, label, split, true_label, group, one_hot)


def one_hot_labels(table, columns):
    """Returns the class of each row of a one-hot table, by the name of its column; "" if none."""
    labels = []
    for row in table.rows:
        marked = [table.header[column] for column in columns.one_hot if _is_one(row[column])]
        labels.append(marked[0] if marked else "")
    return labels


def _find(table, name):
    """Returns the position of a column, exactly by its name or else without regard to case."""
    for same in (lambda entry: entry == name, lambda entry: entry.lower() == name.lower()):
        found = [column for column, entry in enumerate(table.header) if same(entry)]
        if len(found) > 1:
            raise UserError(f"--data_dir={table.path} has two columns named {name!r}. Rename one "
                            "of them.")
        if found:
            return found[0]
    return None


def _looks_like_data(table, path):
    """Returns whether the first row holds data, such as a path, instead of names of columns."""
    if path is not None:
        return _is_path(table.header[path])
    return any(_is_path(cell) or _exists(table, cell)
               or (cell and cell in {row[column] for row in table.rows})
               for column, cell in enumerate(table.header))


def _exists(table, cell):
    """Returns whether a cell is the path of a file, with or without its suffix."""
    return bool(cell) and any(os.path.isfile(table.path.parent / f"{cell}{suffix}")
                              for suffix in ("", *SUFFIXES))


def _is_path(cell):
    return cell.lower().endswith(SUFFIXES) or "://" in cell or os.path.isabs(cell)


def _suggest_header(table):
    """Returns names of columns for a table whose header is its first row of data."""
    cells = table.header
    names, unused = [], ["path", "split", "label"]
    for position, cell in enumerate(cells, start=1):
        role = "label"
        if _is_path(cell) or _exists(table, cell):
            role = "path"
        elif cell.lower() in SPLIT_NAMES and len(cells) > 2:
            role = "split"
        if role in unused:
            unused.remove(role)
            names.append(role)
        else:
            names.append(f"column_{position}")
    return names


def _suggest_flag(table):
    """Returns the --csv_columns that probably fit a table, or how to write it."""
    rows = table.rows[:SAMPLE_ROWS]

    def is_column_of_paths(column):
        cells = [row[column] for row in rows]
        return rows and len(set(cells)) > len(cells) / 2 and all(
            _is_path(cell) or _exists(table, cell) for cell in cells)

    paths = [column for column in range(len(table.header)) if is_column_of_paths(column)]
    if len(paths) != 1 or "," in "".join(table.header):
        return "--csv_columns=PATH,LABEL"
    one_hot = _find_one_hot(table, paths)
    if one_hot and _sums_to_one(table, one_hot):
        return (f"--csv_columns={table.header[paths[0]]}, which takes the one-hot columns "
                f"{format_some([table.header[column] for column in one_hot])} as classes")
    others = [column for column in range(len(table.header)) if column not in paths]
    label = "LABEL"
    if others:
        # The column with the fewest different cells, of which there must be two.
        counts = {column: len({row[column] for row in rows}) for column in others}
        usable = [column for column in others if counts[column] > 1]
        label = table.header[min(usable or others, key=counts.get)]
    return f"--csv_columns={table.header[paths[0]]},{label}"


def _is_one(cell):
    return cell in ("1", "1.0")


def _find_one_hot(table, others):
    """Returns the columns that hold only 0 and 1: tuple of int; () unless there are two."""
    found = tuple(column for column in range(len(table.header)) if column not in others
                  and all(row[column] in ("0", "1", "0.0", "1.0", "") for row in table.rows))
    return found if len(found) > 1 and any(
        _is_one(row[column]) for row in table.rows for column in found) else ()


def _sums_to_one(table, columns):
    return all(sum(_is_one(row[column]) for column in columns) == 1 for row in table.rows)


def _check_one_hot(table, columns):
    """Raises UserError if a row has several classes."""
    for line, row in zip(table.lines, table.rows):
        marked = [table.header[column] for column in columns if _is_one(row[column])]
        if len(marked) > 1:
            raise UserError(f"--data_dir={table.path}, line {line} has several classes "
                            f"({', '.join(marked)}), but training needs one class per image. Keep "
                            "a single 1, or name a column of labels in --csv_columns.")
