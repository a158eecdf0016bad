"""--dataset=cifar10_n: CIFAR-10N, human labels of CIFAR-10's training images (Wei et al. 2022)."""

import dataclasses

import numpy as np

from mlnt_tf.config import CIFAR10_N_LABELS, UserError
from mlnt_tf.data.sources.cifar10 import read_cifar
from mlnt_tf.data.sources.tfds_sets import prepared_builder, read_all
from mlnt_tf.data.splits import Source

RATE_TOLERANCE = 0.01  # Largest difference from the published fraction of wrong labels.


def load_cifar10_n(config):
    """Returns the `Source` of CIFAR-10N. Its test labels are clean.

    --noise names the set of human labels that becomes the given labels.

    Raises:
      UserError: the true labels differ from those of CIFAR-10, or the human labels belong to other
        images.
    """
    label_set = config.noise_source.column
    column = f"{label_set}_label"
    if label_set.startswith("random"):
        column = label_set.replace("random", "random_label")
    builder = prepared_builder("cifar10_n", config, title="CIFAR-10N")
    train, human_labels, image_ids = read_cifar(builder, "train", config, column=column)
    test, _, _ = read_cifar(builder, "test", config)
    _check_true_labels(image_ids, train.labels, config)
    _check_rate(human_labels, train.labels, label_set, column, config)
    class_names = tuple(builder.info.features["label"].names)
    return Source(class_names, dataclasses.replace(train, labels=human_labels), test)


def _check_true_labels(image_ids, labels, config):
    """Raises UserError unless every image has the same true label as in CIFAR-10."""
    builder = prepared_builder(
        "cifar10", config, title="CIFAR-10, which CIFAR-10N is compared with")
    cifar10 = read_all(builder, "train", ("label", "id"))
    label_of_id = dict(zip(cifar10["id"].astype(str), cifar10["label"]))
    wrong = [image_id for image_id, label in zip(image_ids, labels)
             if label_of_id.get(image_id) != label]
    if wrong:
        raise UserError(f"--data_dir={config.data_dir} holds CIFAR-10 and CIFAR-10N with different "
                        f"true labels for {len(wrong)} images (ids {', '.join(wrong[:5])}). One of "
                        "them is damaged: prepare both again.")


def _check_rate(human_labels, true_labels, label_set, column, config):
    """Raises UserError unless as many human labels are wrong as published."""
    rate = np.mean(human_labels != true_labels)
    published_rate = CIFAR10_N_LABELS[label_set]
    if abs(rate - published_rate) > RATE_TOLERANCE:
        raise UserError(f"--data_dir={config.data_dir}: {100 * rate:.1f} % of the {column}s of "
                        f"CIFAR-10N are wrong, but {100 * published_rate:.1f} % should be. The "
                        "labels belong to other images, as TFDS 1.0.1 and earlier mix them up. "
                        "Prepare cifar10_n again.")
