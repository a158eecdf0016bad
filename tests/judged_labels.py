"""Directories with label issues for tests of the review page, written without a network."""

import json

import numpy as np

from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Split
from mlnt_tf.files import atomic

HEADER = ("id", "record", "split", "given_label", "given_class", "predicted_label",
          "predicted_class", "suggested_label", "suggested_class", "label_score", "is_label_issue",
          "suggestion_score", "neighbor_agreement", "outlier_score", "true_label")


def colored_split(count, num_classes, *, start=0, size=(24, 16), records=None):
    """Returns a Split of images in one color each, with the labels 0, 1, …, 0, 1, …."""
    ids = np.arange(start, start + count)
    colors = np.random.default_rng(start).integers(256, size=[count, 1, 1, 3], dtype=np.uint8)
    pixels = np.broadcast_to(colors, [count, *size, 3]).copy()
    names = [f"photo {row}.jpg" for row in ids] if records is None else records
    return Split(ids=ids, labels=(ids % num_classes).astype(np.int32), images=ArrayImages(pixels),
                 records=np.array(names))


def write_tables(directory, splits, class_names, *, features=None, extra=None, label_noise=None,
                 flagged=None, agreeing=()):
    """Writes label_issues.csv, records.csv and features.npy. The id is also the rank.

    The suggested label is the next class, and also the predicted one. The label score of rank r is
    r / 1000.

    Args:
      directory: pathlib.Path.
      splits: dict of name to `Split`.
      class_names: tuple of str.
      features: float32 [n, features], random by default.
      extra: dict of column to list of cells, added to label_issues.csv.
      label_noise: dict for label_noise.json, or None to write none.
      flagged: ids that are worth a look; by default the first half of the training split.
      agreeing: ids whose predicted label is the given one.
    """
    rows = []
    for split_name, split in splits.items():
        for row_id, record, label in zip(split.ids, split.record_names(), split.labels):
            suggested = (int(label) + 1) % len(class_names)
            predicted = label if row_id in agreeing else suggested
            is_issue = row_id < len(split) // 2 if flagged is None else row_id in flagged
            rows.append([row_id, record, split_name, label, class_names[label], predicted,
                         class_names[predicted], suggested, class_names[suggested],
                         f"{row_id / 1000:.6f}", is_issue, "0.9", "0.25",
                         f"{0.5 + row_id / 1000:.6f}", ""])
    columns = extra or {}
    atomic.write_csv(directory / "records.csv", ("id", "record", "split", "given_label"),
                     [row[:4] for row in rows])
    atomic.write_csv(
        directory / "label_issues.csv", (*HEADER, *columns),
        [row + [cells[place] for cells in columns.values()] for place, row in enumerate(rows)])
    if features is None:
        features = np.random.default_rng(0).normal(size=[len(rows), 8]).astype(np.float32)
    np.save(directory / "features.npy", features)
    if label_noise is not None:
        (directory / "label_noise.json").write_text(json.dumps(label_noise))
