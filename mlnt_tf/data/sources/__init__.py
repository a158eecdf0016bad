"""The data set that --dataset names."""

from mlnt_tf.data.sources import cifar10, cifar10_n, clothing1m, csv_table, folder, tfds_sets
from mlnt_tf.data.sources.digits import load_digits
from mlnt_tf.data.sources.user_function import load_function


def load_source(config):
    """The Source that --dataset names.

    Raises:
      UserError: --data_dir lacks the data.
    """
    loaders = {"digits": load_digits, "folder": folder.load_folder, "csv": csv_table.load_csv,
               "clothing1m": clothing1m.load_clothing1m, "cifar10": cifar10.load_cifar10,
               "cifar10_n": cifar10_n.load_cifar10_n}
    if config.dataset in loaders:
        return loaders[config.dataset](config)
    return tfds_sets.load_named(config) if config.dataset.startswith("tfds:") else load_function(config)
