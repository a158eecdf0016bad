"""Writes label issues: label_issues.csv, what it was computed from, duplicates and the estimate."""

import collections
import contextlib
import os
import pathlib

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.experiment.issue_features import FEATURES_FILE
from mlnt_tf.experiment.record import FLAGS_FILE
from mlnt_tf.files import atomic, lock
from mlnt_tf.labels.detection import detection_statistics
from mlnt_tf.labels.noise_rate import estimate_label_noise

ISSUES_FILE = "label_issues.csv"
RECORDS_FILE = "records.csv"
PROBABILITIES_FILE = "pred_probs.npy"
DUPLICATES_FILE = "duplicates.csv"
NOISE_FILE = "label_noise.json"
FILES = {ISSUES_FILE, RECORDS_FILE, FEATURES_FILE, PROBABILITIES_FILE, DUPLICATES_FILE, NOISE_FILE,
         "bad_images.csv", "review.html", "audit.html", FLAGS_FILE, lock.LOCK_FILE}
CORRECTIONS = "corrections*.csv"  # What a person saves next to the page.
HEADER = ("id", "record", "split", "given_label", "given_class", "predicted_label",
          "predicted_class", "suggested_label", "suggested_class", "label_score", "is_label_issue",
          "suggestion_score", "neighbor_agreement", "outlier_score", "true_label")
DUPLICATES_HEADER = ("kind", "similarity", "id", "record", "split", "given_class", "other_id",
                     "other_record", "other_split", "other_given_class")
# Cosine of standardized features from which two photographs are near duplicates. Of 3,321
# photographs, two have such a neighbor, and of 5,000 images of CIFAR-10 none has.
NEAR_SIMILARITY = 0.95
MAX_DUPLICATES = 10_000


@contextlib.contextmanager
def open_directory(config):
    """Takes the lock of --output_dir of `check --label_issues`. Yields its path.

    Raises:
      UserError: it cannot be written, or holds files of something else.
    """
    directory = pathlib.Path(config.output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={directory} cannot be created ({error.strerror}). Choose "
                        "another directory.") from error
    others = sorted(path.name for path in directory.iterdir()
                    if path.name not in FILES and not path.match(CORRECTIONS)
                    and not path.name.startswith(atomic.SCRATCH_PREFIX))
    # A training has flags.txt too, so its directory is recognized by its other files.
    if others:
        raise UserError(f"--output_dir={directory} holds other files, such as {others[0]}. "
                        "Choose another directory for the label issues.")
    with lock.hold_lock(directory):
        yield directory


def write_issues(directory, judged, source, extra=None):
    """Writes the tables and arrays of the label issues.

    label_issues.csv is ordered from the most suspicious label on. records.csv, features.npy and
    pred_probs.npy have one row per image in the order training, validation, test. cleanlab's
    functions take the two arrays as they are.

    Args:
      directory: pathlib.Path.
      judged: `label_issues.Judged`.
      source: `Source` or `Examples`, with class_names and bad_images.
      extra: dict of column name to sequence [n], further columns of label_issues.csv.

    Returns:
      dict for results.json: "label_issues", the counts; "detection", None where no true label is
      known; "label_noise".
    """
    records = [record for split in judged.splits.values() for record in split.record_names()]
    ids, names = judged.concatenate("ids"), judged.split_names
    labels = judged.columns["given_label"]
    atomic.write_csv(directory / RECORDS_FILE, ("id", "record", "split", "given_label"),
                     zip(ids, records, names, labels))
    _write_features(directory, judged.features)
    with atomic.replacing(directory / PROBABILITIES_FILE) as scratch:
        _save(scratch, judged.probabilities)
    if source.bad_images:
        atomic.write_csv(directory / "bad_images.csv", ("record", "reason"), source.bad_images)
    duplicates = list(find_duplicates(judged))
    atomic.write_csv(directory / DUPLICATES_FILE, DUPLICATES_HEADER, (
        (kind, f"{similarity:.4f}", *(value for row in pair for value in (
            ids[row], records[row], names[row], source.class_names[labels[row]])))
        for kind, similarity, *pair in duplicates))
    extra = extra or {}
    atomic.write_csv(directory / ISSUES_FILE, (*HEADER, *extra), (
        [_cell(value) for value in row.values()]
        for row in iterate_rows(judged, source.class_names, records, extra)))
    summary = summarize(judged, source.class_names, duplicates)
    atomic.write_json(directory / NOISE_FILE, summary["label_noise"])
    return summary


def summarize(judged, class_names, duplicates=()):
    """Returns the entries of results.json that `write_issues` returns."""
    true, names = judged.concatenate("true_labels"), judged.split_names
    train = names == "train"
    detection = detection_statistics(judged.columns, true)
    if detection is not None and len(judged.splits) > 1:
        detection["splits"] = {name: detection_statistics(judged.columns, true, names == name)
                               for name in judged.splits}
    flagged = judged.columns["is_label_issue"]
    return {
        "label_issues": {"images": len(names), "flagged": int(flagged.sum()),
                         "recipe": judged.recipe, "duplicates": len(duplicates)},
        "detection": detection,
        "label_noise": estimate_label_noise(judged.columns["given_label"][train],
                                            judged.smoothed[train], class_names)}


def iterate_rows(judged, class_names, records, extra):
    """Yields the rows of label_issues.csv as dicts, the most suspicious label first."""
    ids, names = judged.concatenate("ids"), judged.split_names
    true, columns = judged.concatenate("true_labels"), judged.columns
    for row in np.argsort(columns["label_score"], kind="stable"):
        found = {"id": ids[row], "record": records[row], "split": names[row]}
        for kind in ("given", "predicted", "suggested"):
            label = columns[f"{kind}_label"][row]
            found |= {f"{kind}_label": label, f"{kind}_class": class_names[label]}
        for name in ("label_score", "is_label_issue", "suggestion_score", "neighbor_agreement",
                     "outlier_score"):
            found[name] = columns[name][row]
        found["true_label"] = true[row] if true[row] >= 0 else ""
        yield found | {name: values[row] for name, values in extra.items()}


def find_duplicates(judged):
    """Yields (kind, similarity, row, other row) of equal and of nearly equal images.

    Kinds are "same label" and "two labels" for images of equal content, the latter first, and
    "near" for images with nearly equal features of a pretrained network. Features of the run's own
    network are nearly equal for all images of a class, so they show no duplicates. Splits that are
    read from shards have no digests and are compared by their features alone.

    Args:
      judged: `label_issues.Judged`.
    """
    labels, groups, start = judged.columns["given_label"], collections.defaultdict(list), 0
    for split in judged.splits.values():
        digests = split.digests
        if digests is None and split.images.nbytes:
            digests = split.images.digests()
        if digests is not None:
            for row, digest in enumerate(digests.tolist(), start):
                groups[digest].append(row)
        start += len(split)
    pairs = [(rows[0], other) for rows in groups.values() for other in rows[1:]]
    pairs.sort(key=lambda pair: labels[pair[0]] == labels[pair[1]])
    for row, other in pairs[:MAX_DUPLICATES]:
        kind = "same label" if labels[row] == labels[other] else "two labels"
        yield kind, 1.0, row, other
    if judged.recipe != "probe":
        return
    equal, seen = set(pairs), set()
    rows, similarities = judged.nearest
    for row in np.flatnonzero(similarities[:, 0] >= NEAR_SIMILARITY)[:MAX_DUPLICATES]:
        pair = tuple(sorted((int(row), int(rows[row, 0]))))
        if pair not in equal and pair not in seen:
            seen.add(pair)
            yield "near", float(similarities[row, 0]), *pair


def _write_features(directory, features):
    """Writes features.npy. A memory map in the scratch file only needs another name."""
    scratch = directory / (atomic.SCRATCH_PREFIX + FEATURES_FILE)
    if isinstance(features, np.memmap) and pathlib.Path(features.filename) == scratch.resolve():
        features.flush()
        os.replace(scratch, directory / FEATURES_FILE)
        return
    with atomic.replacing(directory / FEATURES_FILE) as scratch:
        _save(scratch, np.asarray(features, np.float32))


def _save(path, array):
    with open(path, "wb") as file:
        np.save(file, array)


def _cell(value):
    """Returns a number with six decimals, an unknown one as "", and other values as they are."""
    if not isinstance(value, (float, np.floating)):
        return value
    return "" if np.isnan(value) else f"{value:.6f}"
