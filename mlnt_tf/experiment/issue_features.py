"""Features and predictions of all images, from which label issues are judged."""

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline, transforms
from mlnt_tf.files import atomic
from mlnt_tf.models import build, predict
from mlnt_tf.models.submodels import feature_extractor

MODEL = "efficientnet_lite0"
MIN_SIZE = 112  # Pixels. The network was trained at 224, and its features of tiny images are weak.
BATCH_SIZE = 64
FEATURES_FILE = "features.npy"


def new_table(directory, count, width):
    """Returns an uninitialized float32 [count, width] array for features.

    A large one is mapped from a scratch file in the directory, which `issue_files.write_issues`
    renames to features.npy.
    """
    if 4 * count * width < predict.IN_MEMORY_BELOW:
        return np.empty([count, width], np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (atomic.SCRATCH_PREFIX + FEATURES_FILE)
    return np.lib.format.open_memmap(path, "w+", np.float32, (count, width))


def network_outputs(run, network):
    """Returns (features, probabilities) of all images of a run, from one pass over each split.

    Every worker must call it.

    Args:
      run: the `Run`.
      network: a network on every device.
    """
    both = predict.features_and_logits(network)
    # With a frozen body, the network is a head, and its input are the features of these splits.
    splits = [getattr(run.examples, name) for name in run.examples.given]
    count = sum(map(len, splits))
    features = new_table(run.path, count, both.outputs[0].shape[-1])
    probabilities = np.empty([count, len(run.examples.class_names)], np.float32)
    start = 0
    for split in splits:
        batches = run.examples.batches(split, run.config, multiple=run.devices.replicas)
        for rows, logits in predict.iterate_outputs(both, batches):
            stop = start + len(rows)
            features[start:stop] = rows
            probabilities[start:stop] = predict.softmax(np.asarray(logits, np.float32))
            start = stop
    return features, probabilities


def features_before_training(run):
    """Returns the features of a run's images from its network at the pretrained weights.

    A run that has computed them already, for a frozen body or a probe, reads them again.
    """
    given = run.images.given
    if run.devices.workers > 1:  # The chief is alone here.
        return _extract(run.images.new_network(run.config), given, run.path,
                        lambda split: run.images.batches(split, run.config))
    parts = [run.features[name] for name in given]
    table = new_table(run.path, sum(map(len, parts)), parts[0].shape[1])
    start = 0
    for part in parts:
        table[start:start + len(part)] = part
        start += len(part)
    return table


def pretrained_features(splits, directory):
    """Returns features of EfficientNet-Lite0 with ImageNet weights, float32 [n, features].

    Smaller images are enlarged to MIN_SIZE pixels, and those with one channel repeated to three.

    Args:
      splits: dict of name to `Split`.
      directory: pathlib.Path, for a scratch file if the features are large.
    """
    shape = splits["train"].images.shape
    size = enlarged_size(shape[:2])
    network = build.build_network(MODEL, width=1, input_shape=(*size, 3), num_classes=2, seed=0,
                                  pretrained_weights="imagenet")
    normalize = build.normalization(MODEL)
    preprocess = transforms.Preprocess(
        shape, shape,
        lambda images: normalize(tf.image.resize(_three_channels(images), size)))
    return _extract(network, splits, directory, lambda split: pipeline.evaluation_batches(
        split, preprocess, batch_size=BATCH_SIZE))


def enlarged_size(size):
    """Returns the (height, width) at which images of this size are shown to the network."""
    factor = max(1, MIN_SIZE / min(size))
    return tuple(round(factor * side) for side in size)


def _three_channels(images):
    return images if images.shape[-1] == 3 else tf.repeat(images, 3, axis=-1)


def _extract(network, splits, directory, batches):
    """Returns the penultimate features of all splits. `batches` is a function of a split."""
    extractor = feature_extractor(network)
    table = new_table(directory, sum(map(len, splits.values())), extractor.output_shape[-1])
    start = 0
    for name, split in splits.items():
        height, width, _ = split.images.shape
        logging.info("%s: features of %d images at %d x %d pixels", name, len(split), height, width)
        for rows in predict.iterate_outputs(extractor, batches(split)):
            table[start:start + len(rows)] = rows
            start += len(rows)
    return table


def read_array(flag, path, shape):
    """Returns a user's array [n, columns]. Raises UserError if it does not have the shape.

    Args:
      flag: str, its flag without dashes.
      path: str.
      shape: (n, columns), or None for any number of columns.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--{flag}={path} cannot be read ({error}). Name a .npy file with one "
                        "row per training image.") from error
    count, columns = shape
    if array.ndim != 2 or len(array) != count or columns not in (None, array.shape[1]):
        classes = "" if columns is None else f" and {columns} classes"
        raise UserError(f"--{flag}={path} has shape {array.shape}, but the training split has "
                        f"{count} images{classes}. Give one row per image"
                        f"{' and one column per class' if classes else ''}.")
    return array
