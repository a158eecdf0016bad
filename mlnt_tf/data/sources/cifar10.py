"""CIFAR-10 as TFDS has prepared it."""

import numpy as np

from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.sources.tfds_sets import prepared_builder, read_all
from mlnt_tf.data.splits import Source, Split


def load_cifar10(config):
    """CIFAR-10 through TFDS, in the order of its records."""
    builder = prepared_builder("cifar10", config, title="CIFAR-10")
    train, test = (read_cifar(builder, split, config)[0] for split in ("train", "test"))
    return Source(tuple(builder.info.features["label"].names), train, test)


def read_cifar(builder, split, config, *, column="label"):
    """One split of CIFAR-10 or CIFAR-10N, files in order: (Split with its true labels, a column of labels, ids)."""
    found = read_all(builder, split, {"image", "label", "id", column}, config)
    labels = found["label"].astype(np.int32)
    return (Split(np.arange(len(labels)), labels, ArrayImages(found["image"], size=config.resized),
                  found["tfds_id"].astype(str), true_labels=labels),
            found[column].astype(np.int32), found["id"].astype(str))
