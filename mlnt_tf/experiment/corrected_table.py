"""The corrected table that `relabel` writes, and its columns that a later run reads.

This module imports TensorFlow only to read a table of the user's.
"""

import collections
import dataclasses
import os
import pathlib

from mlnt_tf.config import UserError
from mlnt_tf.files.corrections import OMITTED, UNDECIDED, Correction, read_table

# Columns that `relabel` adds to a table. `original_label` is the label before the first correction,
# `verdict` the verdict, or AUTO for a suggestion that no person has looked at, and `reviewed` is
# "review" or "audit" if a person has.
ADDED = ("original_label", "verdict", "reviewed")
AUTO = "auto"
SPLIT_DIRECTORIES = ("train", "training", "val", "valid", "validation", "test", "testing")
DEFAULT_COLUMNS = ("path", "label", "split", "true_label")
FILE_DATASETS = ("csv", "folder", "clothing1m")


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of the columns of a table: those of --csv_columns."""

    path: str
    label: str
    split: str
    true_label: str

    @classmethod
    def of(cls, config):
        """Returns the column names of a Config. Those it does not name have their default names."""
        given = [name.strip() for name in config.csv_columns.split(",")]
        given += [""] * (len(DEFAULT_COLUMNS) - len(given))
        return cls(*[default if name in ("", "-") else name
                     for name, default in zip(given, DEFAULT_COLUMNS)])

    @property
    def flag(self):
        """str, the flag that names these columns, empty for the default names."""
        names = dataclasses.astuple(self)
        return "" if names == DEFAULT_COLUMNS else f"--csv_columns={','.join(names)}"


def corrected_rows(config, issues, class_names, corrections, *, threshold, directory):
    """Returns the corrected table.

    Args:
      config: the Config of the run.
      issues: dict of id to the row of label_issues.csv, in the order of records.csv.
      class_names: sequence of str.
      corrections: dict of id to `Correction`.
      threshold: float, suggestions with a suggestion_score above it are taken without looking at
        the image, or None for none.
      directory: pathlib.Path, of the new table, which relative paths count from.

    Returns:
      (columns, header, rows, counts): `Columns`, a list of str, a list of (dict with these keys,
      absolute path of the image), and a Counter of "kept", "corrected", "dropped", "undecided",
      "auto", "auto test" and "changed".

    Raises:
      UserError: the table of the data set cannot be read, or images are no files.
    """
    root, columns, header, table = _read_original(config, issues, class_names)
    header = list(header) + [name for name in (
        columns.label, columns.split, columns.true_label, *ADDED) if name not in header]
    counts, rows, missing = collections.Counter(), [], []
    for key, cells, file in table:
        row = {name: cells.get(name, "") for name in header}
        row[columns.path] = _relocated(cells[columns.path], file, root, directory)
        if key is not None:
            if not os.path.isfile(file):
                missing.append(cells[columns.path])
            issue = issues[key]
            row[columns.split] = _split_of(cells.get(columns.split, ""), issue, config.dataset)
            correction = corrections.get(key) or _automatic(issue, row, threshold)
            if not _apply(row, columns, issue, correction, class_names, counts):
                continue
        rows.append((row, file))
    if missing:
        raise UserError(f"{len(missing)} of {len(table)} images, such as {missing[0]}, are not "
                        f"files under {root}. Restore the data where the run has read them.")
    return columns, header, rows, counts


def _automatic(issue, row, threshold):
    """Returns the Correction by the suggestion, or None if it is not certain enough.

    Images that a person has reviewed are left alone.
    """
    if threshold is None or row.get("reviewed"):
        return None
    if float(issue["suggestion_score"]) <= threshold:
        return None
    return Correction(AUTO, issue["suggested_class"], "")


def _apply(row, columns, issue, correction, class_names, counts):
    """Applies a verdict to a row, and counts it. Returns whether the row stays in the table."""
    given = issue["given_class"]
    row[columns.label] = given
    if not row[columns.true_label] and issue["true_label"]:
        row[columns.true_label] = class_names[int(issue["true_label"])]
    if correction is None:
        return True
    verdict = correction.verdict
    if verdict in OMITTED:
        counts["dropped"] += 1
        return False
    row["verdict"], row["reviewed"] = verdict, correction.sample
    if verdict in UNDECIDED:
        counts["undecided"] += 1
        row[columns.true_label] = ""
        return True
    counts[{"keep": "kept", "correct": "corrected", AUTO: "auto"}[verdict]] += 1
    if correction.label != given:
        counts["changed"] += 1
        row["original_label"] = row["original_label"] or given
    row[columns.label] = correction.label
    if verdict == AUTO:
        counts["auto test"] += row[columns.split] == "test"
    else:
        row[columns.true_label] = correction.label
    return True


def _read_original(config, issues, class_names):
    """Returns (root, Columns, header, [(id or None, cells, path of the image)]) of a run's data.

    The id is None for a row that the run has not judged, such as an image that does not decode.
    """
    if config.dataset not in FILE_DATASETS:
        raise UserError(f"--dataset={config.dataset} of this run has no image files that a table "
                        f"could list. relabel writes tables for {', '.join(FILE_DATASETS)}.")
    data = pathlib.Path(config.data_dir).resolve()
    if config.dataset != "csv":
        columns = Columns(*DEFAULT_COLUMNS)
        rows = [(key, {columns.path: issue["record"], columns.label: issue["given_class"]},
                 os.path.join(data, issue["record"])) for key, issue in issues.items()]
        return data, columns, [columns.path, columns.label], rows
    from mlnt_tf.data.sources import csv_table, table_columns, table_file

    root, _, listings = csv_table.list_table(config)
    files = {os.fsdecode(record): os.fsdecode(path) for listing in listings.values()
             for record, path in zip(listing.records, listing.paths)}
    names = table_columns.column_names(config)
    table = table_file.read_table(data, columns=names)
    found = table_columns.find_columns(table, names, config)
    columns = Columns(*[default if place is None else table.header[place] for default, place in zip(
        dataclasses.astuple(Columns.of(config)),
        (found.path, found.label, found.split, found.true_label))])
    waiting = collections.defaultdict(collections.deque)
    for key, issue in issues.items():
        waiting[issue["record"]].append(key)
    rows = []
    for row in table.rows:
        cells = dict(zip(table.header, row))
        for name in (columns.label, columns.true_label):
            if name in cells:
                cells[name] = _class_name(cells[name], class_names)
        record = cells[columns.path]
        file = os.path.normpath(os.path.join(root, files.get(record, record)))
        rows.append((waiting[record].popleft() if waiting[record] else None, cells, file))
    left = [record for record, keys in waiting.items() if keys]
    if left:
        raise UserError(f"--data_dir={data} has no row with {left[0]}, which this run has judged. "
                        "Restore the table that the run has read.")
    return root, columns, table.header, rows


def _class_name(cell, class_names):
    """Returns the class name of a label cell, which may be the number of a class."""
    if cell in class_names or not cell.isdigit() or int(cell) >= len(class_names):
        return cell
    return class_names[int(cell)]


def _split_of(cell, issue, dataset):
    """Returns the split to write for an image.

    The user's own splits stay, and so does a test split that the run has held out, to measure the
    next run on the same images. Validation images that were held out return to the training split,
    because the next run prefers those with known true labels.
    """
    if cell.strip():
        return cell.strip()
    if issue["split"] == "test" or dataset == "clothing1m":  # Its lists name every split.
        return issue["split"]
    first = issue["record"].replace("\\", "/").split("/")[0].lower()
    is_own = first in SPLIT_DIRECTORIES and first.startswith("val")
    return "validation" if issue["split"] == "validation" and is_own else "train"


def _relocated(written, file, root, directory):
    """Returns the path cell that leads to the same file from a table in another directory."""
    directory = directory.resolve()
    if os.path.isabs(written) or directory == pathlib.Path(root).resolve():
        return written
    if pathlib.Path(file).is_relative_to(directory):
        return os.path.relpath(file, directory)
    return str(file)


def read_verdicts(config):
    """Returns the verdicts of the table that a run reads: dict of record to dict of ADDED.

    It is empty unless --dataset=csv names a table that `relabel` has written.
    """
    if config.dataset != "csv":
        return {}
    columns, table = Columns.of(config), pathlib.Path(config.data_dir)
    try:
        header, rows = read_table(table, "--data_dir")
    except UserError:  # Another kind of table, such as one with semicolons.
        return {}
    if not set(ADDED) <= set(header) or columns.path not in header:
        return {}
    root, found = table.resolve().parent, {}
    for cells in rows:
        if not cells["verdict"]:
            continue
        written = cells[columns.path].strip()
        relative = os.path.relpath(written, root) if os.path.isabs(written) else written
        entry = {name: cells[name].strip() for name in ADDED}
        found[written] = found[relative] = entry | {"label": cells[columns.label].strip()}
    return found


def count_verdicts(verdicts, records):
    """Counts the verdicts on the images of a run: dict, or None if there are none.

    Args:
      verdicts: see `read_verdicts`.
      records: sequence of str.
    """
    entries = [verdicts[record] for record in records if record in verdicts]
    if not entries:
        return None
    reviewed = [entry for entry in entries if entry["reviewed"]]
    return {
        "reviewed": len(reviewed),
        "audited": sum(entry["reviewed"] == "audit" for entry in reviewed),
        "kept": sum(entry["verdict"] == "keep" for entry in reviewed),
        "corrected": sum(entry["verdict"] == "correct" for entry in reviewed),
        "undecided": sum(entry["verdict"] in UNDECIDED for entry in reviewed),
        "auto": sum(entry["verdict"] == AUTO for entry in entries)}
