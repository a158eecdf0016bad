"""--dataset=digits: scikit-learn's handwritten digits."""

import numpy as np

from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import TEST_SALT, Source, Split, draw_stratified

DIGITS_TEST_EXAMPLES = 300


def load_digits(config):
    """scikit-learn's 1,797 handwritten digits, 8 x 8; the same 300 of them are the test split of every seed."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    ids, labels = np.arange(len(digits.target)), digits.target.astype(np.int32)
    everything = Split(ids=ids, labels=labels, true_labels=labels,
                       images=ArrayImages(np.round(digits.images * 255 / 16).astype(np.uint8)[..., None],
                                          size=config.resized),
                       records=np.array([f"digits[{i}]" for i in ids]))
    rest, test = draw_stratified(everything, DIGITS_TEST_EXAMPLES, seed=0, salt=TEST_SALT)
    return Source(tuple(str(name) for name in digits.target_names), rest, test)
