"""--dataset=cifar10: CIFAR-10, prepared by TFDS."""

import numpy as np

from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.sources.tfds_sets import prepared_builder, read_all
from mlnt_tf.data.splits import Source, Split


def load_cifar10(config):
    """Returns the `Source` of CIFAR-10, in the order of TFDS's records."""
    builder = prepared_builder("cifar10", config, title="CIFAR-10")
    train, _, _ = read_cifar(builder, "train", config)
    test, _, _ = read_cifar(builder, "test", config)
    return Source(tuple(builder.info.features["label"].names), train, test)


def read_cifar(builder, split, config, *, column="label"):
    """Reads one split of CIFAR-10 or CIFAR-10N into memory, files in order.

    Args:
      builder: a prepared TFDS builder.
      split: str, "train" or "test".
      config: `Config`.
      column: str, a further column of labels to read.

    Returns:
      (`Split` with its true labels, the labels of the column as int32 [n], image ids as str [n]).
    """
    columns = read_all(builder, split, {"image", "label", "id", column})
    labels = columns["label"].astype(np.int32)
    examples = Split(
        ids=np.arange(len(labels)), labels=labels, true_labels=labels,
        images=ArrayImages(columns["image"], size=config.resized),
        records=columns["tfds_id"].astype(str))
    return examples, columns[column].astype(np.int32), columns["id"].astype(str)
