"""The data set that --dataset names."""

import numpy as np

from mlnt_tf.config import UserError, call_function
from mlnt_tf.data import clothing1m, listings, tfds_sets
from mlnt_tf.data.images import ArrayImages
from mlnt_tf.data.splits import TEST_SALT, Source, Split, draw

DIGITS_TEST_EXAMPLES = 300


def load_source(config):
    """The Source that --dataset names.

    Raises:
      UserError: --data_dir lacks the data.
    """
    loaders = {"digits": load_digits, "folder": listings.load_folder, "csv": listings.load_csv,
               "clothing1m": clothing1m.load_clothing1m, "cifar10": tfds_sets.load_cifar10,
               "cifar10_n": tfds_sets.load_cifar10_n}
    if config.dataset in loaders:
        return loaders[config.dataset](config)
    return tfds_sets.load_named(config) if config.dataset.startswith("tfds:") else load_function(config)


def load_digits(config):
    """scikit-learn's 1,797 handwritten digits, 8 x 8; the same 300 of them are the test split of every seed."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    ids, labels = np.arange(len(digits.target)), digits.target.astype(np.int32)
    everything = Split(ids=ids, labels=labels, true_labels=labels,
                       images=ArrayImages(np.round(digits.images * 255 / 16).astype(np.uint8)[..., None],
                                          size=config.resized),
                       records=np.array([f"digits[{i}]" for i in ids]))
    rest, test = draw(everything, DIGITS_TEST_EXAMPLES, seed=0, salt=TEST_SALT)
    return Source(tuple(str(name) for name in digits.target_names), rest, test)


def load_function(config):
    """--dataset=package.module:function, which takes the Config, by the name `config`, and returns a Source."""
    source = call_function("dataset", config.dataset, config=config)
    if not isinstance(source, Source):
        raise UserError(f"--dataset={config.dataset} returned {type(source).__name__}: it must return a "
                        "mlnt_tf.data.splits.Source.")
    return source
