"""Data sets, by the value of --dataset."""

from mlnt_tf.data.sources import cifar10, cifar10_n, clothing1m, csv_table, folder, tfds_sets
from mlnt_tf.data.sources.digits import load_digits
from mlnt_tf.data.sources.surveys import Survey, survey
from mlnt_tf.data.sources.user_function import load_function

__all__ = ["LOADERS", "Survey", "load_source", "survey"]
LOADERS = {
    "digits": load_digits, "cifar10": cifar10.load_cifar10, "cifar10_n": cifar10_n.load_cifar10_n,
    "clothing1m": clothing1m.load_clothing1m, "folder": folder.load_folder,
    "csv": csv_table.load_csv}


def load_source(config):
    """Returns the `Source` that --dataset names.

    Raises:
      UserError: the data are missing or cannot be read.
    """
    if config.dataset in LOADERS:
        return LOADERS[config.dataset](config)
    if config.dataset.startswith("tfds:"):
        return tfds_sets.load_named(config)
    return load_function(config)
