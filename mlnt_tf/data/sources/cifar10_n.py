"""CIFAR-10N: human labels of CIFAR-10's training images."""

import dataclasses

import numpy as np

from mlnt_tf.config import CIFAR10_N_LABELS, UserError
from mlnt_tf.data.sources.cifar10 import read_cifar
from mlnt_tf.data.sources.tfds_sets import prepared_builder, read_all
from mlnt_tf.data.splits import Source


def load_cifar10_n(config):
    """Loads CIFAR-10N: human labels of CIFAR-10's training images. The test labels are clean.

    --noise names the label set.

    Raises:
      UserError: the true labels differ from those of CIFAR-10, or the human labels belong to other
        images.
    """
    label_set = config.noise_source.column
    column = f"{label_set}_label"
    if label_set.startswith("random"):
        column = label_set.replace("random", "random_label")
    builder = prepared_builder("cifar10_n", config, title="CIFAR-10N")
    train, human, names = read_cifar(builder, "train", config, column=column)
    test, *_ = read_cifar(builder, "test", config)
    reference = read_all(prepared_builder("cifar10", config, title="CIFAR-10, which CIFAR-10N is compared with"),
                         "train", ("label", "id"), config)
    true_of = dict(zip(reference["id"].astype(str), reference["label"]))
    wrong = [name for name, label in zip(names, train.labels) if true_of.get(name) != label]
    if wrong:
        raise UserError(f"--data_dir={config.data_dir}: the true labels of {len(wrong)} images of CIFAR-10N are not "
                        f"those of CIFAR-10 (ids {', '.join(wrong[:5])}): one of the two is mixed up; prepare both "
                        "again.")
    rate, known = np.mean(human != train.labels), CIFAR10_N_LABELS[label_set]
    if abs(rate - known) > 0.01:
        raise UserError(f"--data_dir={config.data_dir}: {100 * rate:.1f} % of the {column}s of CIFAR-10N are wrong, where "
                        f"{100 * known:.1f} % should be: they sit on other images (TFDS 1.0.1 and before mix them "
                        "up); prepare cifar10_n again.")
    return Source(tuple(builder.info.features["label"].names), dataclasses.replace(train, labels=human), test)
