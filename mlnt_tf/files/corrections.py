"""Reads corrections.csv, the verdicts of a person on labels, and checks them against a run.

This module does not import TensorFlow.
"""

import csv
import dataclasses

from mlnt_tf.config import UserError
from mlnt_tf.files.cells import restore_cell

COLUMNS = ("id", "record", "given_label", "corrected_label", "verdict", "sample")
VERDICTS = ("keep", "correct", "drop", "none", "several", "unsure")
OMITTED = ("drop", "none")  # The image is left out of the corrected table.
UNDECIDED = ("several", "unsure")  # The label stays, and the true label is unknown.
SAMPLES = ("review", "audit")


@dataclasses.dataclass(frozen=True)
class Correction:
    """A verdict on one image.

    Attributes:
      verdict: str, one of VERDICTS.
      label: str, the class name that is right, empty unless the verdict is "keep" or "correct".
      sample: "review" if the image was shown as suspicious, "audit" if it was drawn at random.
    """

    verdict: str
    label: str
    sample: str


def read_table(path, flag=None):
    """Returns (header, rows) of a CSV file, a list of str and a list of dict of str.

    Raises:
      UserError: it cannot be read, is empty, or has rows longer than its header.
    """
    name = f"{flag}={path}" if flag else path
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = [{column: cells.get(column) or "" for column in header}
                    for cells in _checked(name, reader)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be read ({reason}). Name a table of comma-separated UTF-8 "
                        "text.") from error
    if not header:
        raise UserError(f"{name} is empty. Its first line must name the columns.")
    return header, rows


def _checked(name, reader):
    for cells in reader:
        if None in cells:
            raise UserError(f"{name}, line {reader.line_num} has more cells than columns. Put "
                            "quotes around a cell that contains a comma.")
        yield cells


def read_corrections(paths, issues, class_names):
    """Returns {id: Correction} of several files.

    The same verdict in two files counts once, as that of an audit if one of them is.

    Args:
      paths: list of str, the values of --corrections.
      issues: dict of id, a str, to the row of label_issues.csv, a dict.
      class_names: sequence of str.

    Raises:
      UserError: a file cannot be read or belongs to another run, or a row contradicts another.
    """
    found, places = {}, {}
    for path in paths:
        header, rows = read_table(path, "--corrections")
        missing = [column for column in COLUMNS[:5] if column not in header]
        if missing:
            raise UserError(f"--corrections={path} has no column {missing[0]!r}. Save the file "
                            "with the button of review.html again.")
        own = set()
        for number, row in enumerate(rows, start=1):
            row = {column: restore_cell(cell) for column, cell in row.items()}
            place = f"--corrections={path}, row {number}"
            correction = _check_row(place, row, issues, class_names)
            key = row["id"].strip()
            if key in own:
                raise UserError(f"{place} repeats the id {key}. Keep one row per image.")
            own.add(key)
            earlier = found.get(key)
            if earlier is None:
                found[key], places[key] = correction, place
            elif (earlier.verdict, earlier.label) != (correction.verdict, correction.label):
                raise UserError(f"{place} says {_text(correction)} of the id {key}, but "
                                f"{places[key]} says {_text(earlier)}. Keep one of the two rows.")
            elif correction.sample == "audit":
                found[key] = correction
    return found


def _check_row(place, row, issues, class_names):
    """Returns the Correction of a row. Raises UserError if it does not fit the run."""
    key, verdict = row["id"].strip(), row["verdict"].strip().lower()
    issue = issues.get(key)
    if issue is None:
        raise UserError(f"{place} has the id {key!r}, which this run does not have. Take the "
                        "corrections of this RUN.")
    for column, name in (("record", "record"), ("given_label", "given_class")):
        if row[column] != issue[name]:
            raise UserError(f"{place} has the {column} {row[column]!r}, but the image {key} of "
                            f"this run has {issue[name]!r}. Take the corrections of this RUN.")
    if verdict not in VERDICTS:
        raise UserError(f"{place} has the verdict {row['verdict']!r}. Write one of "
                        f"{', '.join(VERDICTS)}.")
    sample = row.get("sample", "").strip() or "review"
    if sample not in SAMPLES:
        raise UserError(f"{place} has the sample {sample!r}. Write {' or '.join(SAMPLES)}.")
    given, label = issue["given_class"], row["corrected_label"]
    if verdict == "keep":
        if label not in ("", given):
            raise UserError(f"{place} keeps the label {given!r} and corrects it to {label!r}. "
                            "Write the verdict correct, or clear corrected_label.")
        return Correction("keep", given, sample)
    if verdict != "correct":
        return Correction(verdict, "", sample)
    if label not in class_names:
        raise UserError(f"{place} has the corrected_label {label!r}, which is not a class of this "
                        "run. Choose one of its class names.")
    return Correction("keep" if label == given else "correct", label, sample)


def _text(correction):
    return f"{correction.verdict} {correction.label}".strip()
