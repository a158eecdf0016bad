"""Reads the tables of label issues, and chooses the images of a page.

The tables are read row by row, so the memory depends on the number of chosen images only.
"""

import collections
import csv
import dataclasses
import heapq
import json
import math

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.noise import uniform_draws
from mlnt_tf.files.artifacts import UNREADABLE
from mlnt_tf.files.cells import restore_cell

ISSUES_FILE = "label_issues.csv"
RECORDS_FILE = "records.csv"
AUDIT_SALT = 0x61756469
MAX_OUTLIERS = 40
REQUIRED = ("id", "record", "split", "given_class", "suggested_class", "label_score")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The rows of label_issues.csv that a page shows, and counts over all rows.

    Attributes:
      suspects: list of dict, rows in the order of the page. All values are str. Rows that are
        worth a look take precedence over rows with lower scores.
      outliers: list of dict, rows with the lowest outlier_score first.
      by_id: dict of int to dict, the rows of `others`; see `choose`.
      matching: int, the number of rows that match the class and the split.
      reviewed: int, how many of these a person has judged before. They are not shown.
      total, flagged: int, the number of rows, and of those that are worth a look.
      per_class: dict of class name to [rows, flagged rows] with this given label.
    """

    suspects: list
    outliers: list
    by_id: dict
    matching: int
    reviewed: int
    total: int
    flagged: int
    per_class: dict


def read_table(path):
    """Yields the rows of a CSV file, dict of str. Raises UserError if it cannot be read."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                yield {column: restore_cell(cell) if isinstance(cell, str) else cell
                       for column, cell in row.items()}
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}). Name the directory of a finished run, "
                        "or of `python -m mlnt_tf.check --label_issues`.") from error


def read_records(directory):
    """Reads records.csv, whose order is that of features.npy.

    Args:
      directory: pathlib.Path.

    Returns:
      (ids int64 [n], given labels int64 [n]).

    Raises:
      UserError: the table cannot be read, or lacks these columns.
    """
    path = directory / RECORDS_FILE
    rows = read_table(path)
    try:
        pairs = [(int(row["id"]), int(row["given_label"])) for row in rows]
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} needs whole numbers in the columns id and given_label ({error}). "
                        "Write the label issues again.") from error
    ids, labels = np.array(pairs, np.int64).reshape(-1, 2).T
    return ids, labels


def read_id(row, path):
    """Returns the id of a row of label_issues.csv. Raises UserError if the row is incomplete."""
    missing = [name for name in REQUIRED if row.get(name) is None]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]}. Write the label issues again with "
                        "this version of mlnt_tf.")
    if not row["id"].isdecimal():
        raise UserError(f"{path} has the id {row['id']!r}, which is not a whole number. Write the "
                        "label issues again.")
    return int(row["id"])


def read_flag(text):
    """Returns the truth of a cell with a boolean."""
    return str(text).strip().lower() in ("true", "1")


def read_number(text):
    """Returns the number in a cell rounded to four decimals, or None if it has none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return round(value, 4) if math.isfinite(value) else None


def choose(directory, *, top, class_name, split, audit_ids, others):
    """Chooses the rows of label_issues.csv for a page.

    Args:
      directory: pathlib.Path of a run or of `check --label_issues`.
      top: int, the largest number of suspects.
      class_name: str, choose images whose given or suggested label this is; "" for every class.
      split: str, choose images of this split; "" for every split.
      audit_ids: list of int, the ids of the images to show in this order, or None to show the
        most suspicious ones.
      others: set of int, ids whose rows are returned too.

    Returns:
      `Chosen`.

    Raises:
      UserError: the table cannot be read, or lacks a column.
    """
    path = directory / ISSUES_FILE
    wanted = set(audit_ids or ())
    candidates, audited, outliers, by_id = ([], []), {}, [], {}
    per_class = collections.defaultdict(lambda: [0, 0])
    total = flagged = matching = reviewed = 0
    for row in read_table(path):
        row_id = read_id(row, path)
        is_issue = read_flag(row.get("is_label_issue"))
        total += 1
        flagged += is_issue
        per_class[row["given_class"]][0] += 1
        per_class[row["given_class"]][1] += is_issue
        if row_id in others:
            by_id[row_id] = row
        if row_id in wanted:
            audited[row_id] = row
        if not matches(row, class_name, split):
            continue
        matching += 1
        if row.get("verdict"):
            reviewed += 1
            continue
        if len(candidates[is_issue]) < top:
            candidates[is_issue].append((total, row))
        score = read_number(row.get("outlier_score"))
        if score is not None:
            entry = (-score, -total, row)  # The row's number decides between equal scores.
            if len(outliers) < MAX_OUTLIERS:
                heapq.heappush(outliers, entry)
            else:
                heapq.heappushpop(outliers, entry)
    unflagged, issues = candidates
    shown = sorted(issues + unflagged[:top - len(issues)], key=lambda entry: entry[0])
    suspects = [row for _, row in shown]
    if audit_ids is not None:
        suspects = [audited[audit_id] for audit_id in audit_ids if audit_id in audited]
    return Chosen(suspects=suspects, outliers=[row for _, _, row in sorted(outliers, reverse=True)],
                  by_id=by_id, matching=matching, reviewed=reviewed, total=total, flagged=flagged,
                  per_class=dict(per_class))


def matches(row, class_name, split):
    """Returns whether a row has the class as given or suggested label, and the split."""
    has_class = not class_name or class_name in (row["given_class"], row["suggested_class"])
    return has_class and (not split or row["split"] == split)


def draw_audit(directory, count, *, class_name, split, seed):
    """Draws images at random, whatever their scores.

    The draw of an image depends only on the seed and its id, so a larger audit with the same seed
    contains the smaller one.

    Args:
      directory, class_name, split: see `choose`.
      count: int, the number of images.
      seed: int.

    Returns:
      list of int, ids in random order. It is shorter than `count` if fewer images match.
    """
    path = directory / ISSUES_FILE
    ids = np.array([read_id(row, path) for row in read_table(path)
                    if matches(row, class_name, split)], np.int64)
    order = np.argsort(uniform_draws(ids, seed=seed, salt=AUDIT_SALT), kind="stable")
    return ids[order[:count]].tolist()


def read_label_noise(directory):
    """Returns `label_noise` of a run, a dict, or {} if the run has not estimated it."""
    for name in ("label_noise.json", "results.json"):
        try:
            content = json.loads((directory / name).read_text(encoding="utf-8"))
            noise = content.get("label_noise", content if name == "label_noise.json" else None)
            if isinstance(noise, dict):
                return noise
        except UNREADABLE:
            continue
    return {}
