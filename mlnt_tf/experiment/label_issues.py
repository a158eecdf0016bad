"""Label issues of a data set without training a network: pretrained features and a linear probe.

Every image of every split is judged. The probe is fitted on the training split, so its predictions
for validation and test images are out of sample.
"""

import contextlib
import dataclasses
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import noise, pipeline, transforms
from mlnt_tf.data.load import inject_noise
from mlnt_tf.files import atomic, lock
from mlnt_tf.labels.issues import find_label_issues
from mlnt_tf.labels.probe import fit_probe
from mlnt_tf.models import build, predict

MODEL = "efficientnet_lite0"
IMAGE_SIZE = 112  # Default height and width in pixels.
BATCH_SIZE = 64
ISSUES_FILE = "label_issues.csv"
RECORDS_FILE = "records.csv"
FILES = {ISSUES_FILE, RECORDS_FILE, "features.npy", "pred_probs.npy", "bad_images.csv",
         "review.html", "audit.html", lock.LOCK_FILE}
HEADER = ("id", "record", "split", "given_label", "given_class", "predicted_label",
          "predicted_class", "suggested_label", "suggested_class", "label_score", "is_label_issue",
          "suggestion_score", "neighbor_agreement", "outlier_score", "true_label")


def find_issues(source, config):
    """Scores the given labels of every split.

    Args:
      source: `Source`.
      config: a Config with `LabelIssueSettings`.

    Returns:
      dict of split name to (`Split` with ids that are unique over all splits, features float32
      [n, features], probabilities float32 [n, classes], columns of `find_label_issues`).

    Raises:
      UserError: the features do not fit the data, or there are too few images.
    """
    named = named_splits(source, config)
    classes = len(source.class_names)
    features = {name: features_of(split, name, config) for name, split in named.items()}
    train = named["train"]
    try:
        probe = fit_probe(features["train"], train.labels, classes, seed=config.seed)
        return {name: (split, features[name], probe.probabilities(features[name]),
                       find_label_issues(split.labels, features=features[name], probe=probe,
                                         num_classes=classes))
                for name, split in named.items()}
    except ValueError as error:
        raise UserError(f"--label_issues cannot judge the {len(train)} training images of "
                        f"--dataset={config.dataset}: {error}. Add images, or correct "
                        "--features.") from error


def named_splits(source, config):
    """Returns {name: Split} with unique ids, and with label noise if --noise injects some.

    Training ids stay. With --features, only the training split is judged.
    """
    matrix = None
    if config.noise_source.is_injected:
        matrix = noise.transition_matrix(
            config.noise_source, config.noise_rate, len(source.class_names),
            dataset=config.dataset, symmetric_includes_true=config.symmetric_includes_true)
    named = {"train": inject_noise(source.train, matrix, config)}
    if not config.features:
        others = {"validation": source.validation, "test": source.test}
        named |= {name: split for name, split in others.items() if split is not None and len(split)}
    used = np.zeros(0, np.int64)
    for name, split in named.items():
        ids = split.ids
        if np.isin(ids, used).any():
            ids = ids + used.max() + 1 - ids.min()
        used = np.concatenate([used, ids])
        named[name] = dataclasses.replace(split, ids=ids)
    return named


def features_of(split, name, config):
    """Returns the features of a split, float32 [n, features]: pretrained, or those of --features.

    Images with one channel are repeated to three.
    """
    if config.features:
        return _read_features(config.features, len(split))
    height, width, channels = split.images.shape
    logging.info("%s: features of %d images at %d x %d pixels", name, len(split), height, width)
    network = build.build_network(MODEL, width=1, input_shape=(height, width, 3), num_classes=2,
                                  seed=0, pretrained_weights="imagenet")
    normalize = build.normalization(MODEL)
    shape = height, width, channels
    preprocess = transforms.Preprocess(
        shape, shape, lambda images: normalize(_three_channels(images)))
    batches = pipeline.evaluation_batches(split, preprocess, batch_size=BATCH_SIZE)
    return predict.extract_features(network, batches, "penultimate")


def _three_channels(images):
    return images if images.shape[-1] == 3 else tf.repeat(images, 3, axis=-1)


def _read_features(path, count):
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--features={path} cannot be read ({error}). Name a .npy file with one "
                        "row per training image.") from error
    if features.ndim != 2 or len(features) != count:
        raise UserError(f"--features={path} has shape {features.shape}, but the training split has "
                        f"{count} images. Give one row per image.")
    return features.astype(np.float32)


@contextlib.contextmanager
def open_directory(config):
    """Takes the lock of --output_dir. Yields its path.

    Raises:
      UserError: it cannot be written, or holds files of something else.
    """
    directory = pathlib.Path(config.output_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={directory} cannot be created ({error.strerror}). Choose "
                        "another directory.") from error
    others = {path.name for path in directory.iterdir()} - FILES
    if others:
        raise UserError(f"--output_dir={directory} holds other files, such as {sorted(others)[0]}. "
                        "Choose another directory for the label issues.")
    with lock.hold_lock(directory):
        yield directory


def write_issues(directory, judged, source):
    """Writes label_issues.csv, most suspicious first, and what it was computed from.

    records.csv, features.npy and pred_probs.npy have one row per image in the same order: training,
    validation, test. cleanlab's functions take the two arrays as they are.

    Args:
      directory: pathlib.Path.
      judged: see `find_issues`.
      source: `Source`.

    Returns:
      the rows of label_issues.csv, a list of dict.
    """
    rows = []
    for name, (split, _, _, columns) in judged.items():
        rows += _rows_of(name, split, columns, source.class_names)
    records = [(row["id"], row["record"], row["split"], row["given_label"]) for row in rows]
    atomic.write_csv(directory / RECORDS_FILE, ("id", "record", "split", "given_label"), records)
    for file, place in (("features.npy", 1), ("pred_probs.npy", 2)):
        with atomic.replacing(directory / file) as scratch:
            np.save(scratch, np.concatenate([entry[place] for entry in judged.values()]))
    if source.bad_images:
        atomic.write_csv(directory / "bad_images.csv", ("record", "reason"), source.bad_images)
    rows.sort(key=lambda row: row["label_score"])
    atomic.write_csv(directory / ISSUES_FILE, HEADER,
                     ([_cell(row[column]) for column in HEADER] for row in rows))
    return rows


def _rows_of(name, split, columns, class_names):
    """Returns the rows of one split in its order, a list of dict."""
    rows = []
    for row, record in enumerate(split.record_names()):
        entry = {key: values[row] for key, values in columns.items()}
        for kind in ("given", "predicted", "suggested"):
            entry[f"{kind}_class"] = class_names[entry[f"{kind}_label"]]
        true = int(split.true_labels[row])
        rows.append({"id": split.ids[row], "record": record, "split": name, **entry,
                     "true_label": true if true >= 0 else ""})
    return rows


def _cell(value):
    """Returns a number with six decimals, and other values as they are."""
    return f"{value:.6f}" if isinstance(value, (float, np.floating)) else value
