"""Label issues of a data set: every image of every split is judged.

There are two recipes. The probe needs features of a pretrained network and no training: it is
fitted on the training split, so its predictions for other splits are out of sample. Otherwise the
predictions and features of the run's own network are used. Both are scored by `labels.issues`.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import noise
from mlnt_tf.data.load import build_examples, given_splits, inject_noise
from mlnt_tf.experiment import corrected_table, issue_features
from mlnt_tf.labels import issues
from mlnt_tf.labels.probe import fit_probe, fit_projection
from mlnt_tf.models import predict, pretrained
from mlnt_tf.neighbors import find_neighbors

EXTRACTOR = pretrained.RECORDS[issue_features.MODEL]
IMAGE_SIZE = 112  # Default height and width in pixels of `check --label_issues`.
MIN_PHOTO_SIZE = 64  # Height and width from which color images count as photographs.
MAX_FITTED = 100_000  # The probe and projections are fitted on this many images at most.
EXACT_BELOW = 100_000  # From this many images on, neighbors are searched by ScaNN if it can load.
ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Judged:
    """The judgment of n images, in the order training, validation, test.

    Attributes:
      splits: dict of name to `Split` with given labels, and ids that are unique over all splits.
      recipe: str, "probe" or "network".
      features: float32 [n, features], a memory map if they are large.
      probabilities: float32 [n, classes].
      smoothed: float [n, classes], M, averaged over the neighbors.
      nearest: (rows, similarities), both [n, num_neighbors].
      columns: dict of arrays [n], see `issues.find_label_issues`.
    """

    splits: dict
    recipe: str
    features: np.ndarray
    probabilities: np.ndarray
    smoothed: np.ndarray
    nearest: tuple
    columns: dict

    @property
    def split_names(self):
        """str [n], the name of each image's split."""
        return np.repeat(list(self.splits), [len(split) for split in self.splits.values()])

    def concatenate(self, attribute):
        """Returns an attribute of the splits, such as "ids", for all images."""
        return np.concatenate([getattr(split, attribute) for split in self.splits.values()])


def named_splits(source, config):
    """Returns {name: Split} of the images that are judged, with given labels and unique ids.

    A run judges the images that it trains, validates and tests on. `check --label_issues` judges
    all images, or with --features or --pred_probs only those of the training split.

    Args:
      source: `Source`.
      config: a Config of a run, or with `LabelIssueSettings`.
    """
    if not getattr(config, "label_issues", False):
        return build_examples(source, config).given
    matrix = None
    if config.noise_source.is_injected:
        matrix = noise.transition_matrix(
            config.noise_source, config.noise_rate, len(source.class_names),
            dataset=config.dataset, symmetric_includes_true=config.symmetric_includes_true)
    train = inject_noise(source.train, matrix, config)
    if config.features or config.pred_probs:
        return {"train": train}
    validation = source.validation
    if validation is not None:
        validation = inject_noise(validation, matrix, config, salt=noise.VALIDATION_NOISE_SALT)
    return given_splits(source, train, validation)


def find_issues(source, config):
    """Judges the labels of a data set without training a network.

    Args:
      source: `Source`.
      config: a Config with `LabelIssueSettings`.

    Returns:
      `Judged`.

    Raises:
      UserError: a file of the user's does not fit the data, or there are too few images.
    """
    splits = named_splits(source, config)
    count, num_classes = len(splits["train"]), len(source.class_names)
    probabilities = None
    if config.pred_probs:
        probabilities = issue_features.read_array("pred_probs", config.pred_probs,
                                                  (count, num_classes))
    if config.features:
        features = issue_features.read_array("features", config.features, (count, None))
        features = features.astype(np.float32)
    else:
        features = issue_features.pretrained_features(splits, pathlib.Path(config.output_dir))
    try:
        return score(splits, features, num_classes,
                     probabilities=probabilities, config=config)
    except ValueError as error:
        raise UserError(f"--label_issues cannot judge the {count} training images "
                        f"of --dataset={config.dataset}: {error}. Add images, or correct "
                        "--features or --pred_probs.") from error


def apply_verdicts(judged, config):
    """Unflags the labels that a person has reviewed, if the data are a table of `relabel`.

    Args:
      judged: `Judged`. Its column is_label_issue is changed.
      config: a Config.

    Returns:
      (dict with the column "verdict" of label_issues.csv, which is empty for images that nobody has
      reviewed, or an empty dict if no image has a verdict; counts of `count_verdicts` or None).
    """
    verdicts = corrected_table.read_verdicts(config)
    records = [record for split in judged.splits.values() for record in split.record_names()]
    counts = corrected_table.count_verdicts(verdicts, records)
    if counts is None:
        return {}, None
    reviewed = [verdicts.get(record, {}) for record in records]
    column = [entry["verdict"] if entry.get("reviewed") else "" for entry in reviewed]
    judged.columns["is_label_issue"] &= np.array(column) == ""
    return {"verdict": column}, counts


def choose_recipe(config, examples):
    """Returns "probe" or "network", the recipe of a run.

    Args:
      config: `Config`.
      examples: `Examples`.

    Raises:
      UserError: --issue_scores=probe needs weights that are not installed.
    """
    own = config.pretrained_weights != "none"
    if config.issue_scores == "probe" and not own:
        pretrained.verified_file(EXTRACTOR)
    if config.issue_scores != "auto":
        return config.issue_scores
    height, width, channels = examples.train.images.shape
    if channels != 3 or min(height, width) < MIN_PHOTO_SIZE:
        return "network"
    if not own:
        try:
            pretrained.verified_file(EXTRACTOR)
        except UserError:
            return "network"
    return "probe"


def judge_run(run, network):
    """Judges all images of a run. Every worker must call it, and the chief alone scores.

    Args:
      run: the `Run`, with all stages finished.
      network: the exported network, on every device.

    Returns:
      (`Judged` or None, probabilities of the network, float32 [n, classes]). None on workers that
      are not the chief, and with a warning if the images cannot be judged.
    """
    config, examples = run.config, run.images
    recipe = choose_recipe(config, examples)
    features, probabilities = issue_features.network_outputs(run, network)
    if not run.devices.is_chief:
        return None, probabilities
    num_classes = len(examples.class_names)
    logging.info("label issues: judging %d images by the %s", len(probabilities),
                 "features of a pretrained network" if recipe == "probe" else "exported network")
    try:
        if recipe == "network":
            return score(examples.given, features, num_classes, probabilities=probabilities,
                         config=config), probabilities
        if config.pretrained_weights == "none":
            features = issue_features.pretrained_features(examples.given, run.path)
        else:
            features = issue_features.features_before_training(run)
        return score(examples.given, features, num_classes, config=config), probabilities
    except ValueError as error:
        logging.warning("The labels cannot be judged: %s", error)
        return None, probabilities


def score(splits, features, num_classes, *, config, probabilities=None):
    """Scores the given labels of all splits.

    Args:
      splits: dict of name to `Split`.
      features: float32 [n, features], possibly a memory map.
      num_classes: int.
      config: a Config, for the seed and the search of neighbors.
      probabilities: float [n, classes] of a network. None fits the noise-corrected probe on the
        training split.

    Returns:
      `Judged`.

    Raises:
      ValueError: there are too few images, or a value is not finite.
    """
    labels = np.concatenate([split.labels for split in splits.values()])
    recipe, num_neighbors = "network", issues.POSTERIOR_NEIGHBORS
    transform = np.asarray
    if probabilities is None:
        recipe, num_neighbors = "probe", issues.PROBE_NEIGHBORS
        fitted = _evenly_spaced(len(splits["train"]))
        probe = fit_probe(features[fitted], labels[fitted], num_classes, seed=config.seed)
        transform = probe.projection.standardize
        probabilities = np.concatenate([probe.probabilities(features[rows])
                                        for rows in _blocks(len(features))])
    nearest = _nearest(features, num_neighbors, transform, config)
    names = np.repeat(np.arange(len(splits)), [len(split) for split in splits.values()])
    columns = issues.issues_of_predictions(
        labels.astype(np.int64), probabilities, nearest, groups=names,
        is_corrected=recipe == "probe")
    return Judged(splits, recipe, features, probabilities,
                  issues.smooth_over_neighbors(probabilities, nearest[0]), nearest, columns)


def _evenly_spaced(count):
    return np.unique(np.linspace(0, count - 1, min(count, MAX_FITTED)).astype(np.int64))


def _blocks(count):
    """Returns slices that cover `count` rows."""
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, count, ROWS_AT_ONCE)]


def _nearest(features, num_neighbors, transform, config):
    """Returns (rows, similarities) of the nearest images by cosine.

    Large features are projected to at most 256 principal components. From EXACT_BELOW images on,
    ScaNN searches among them.
    """
    is_large = features.nbytes >= predict.IN_MEMORY_BELOW
    if len(features) < EXACT_BELOW and not is_large:
        return issues.nearest_by_cosine(transform(features), num_neighbors)
    projection = fit_projection(features[_evenly_spaced(len(features))])
    projected = np.concatenate([projection.project(projection.standardize(features[rows]))
                                for rows in _blocks(len(features))])
    if len(features) < EXACT_BELOW:
        return issues.nearest_by_cosine(projected, num_neighbors)
    unit = projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)
    found = find_neighbors(unit, num_neighbors=num_neighbors, backend=config.neighbor_backend)
    similarities = np.concatenate([
        np.einsum("rf,rkf->rk", unit[rows], unit[found.indices[rows]])
        for rows in _blocks(len(unit))])
    return found.indices.astype(np.int64), similarities
