"""--dataset=digits: scikit-learn's handwritten digits."""

import numpy as np

from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import TEST_SALT, Source, Split, draw_stratified

DIGITS_TEST_EXAMPLES = 300


def load_digits(config):
    """Returns the `Source` of scikit-learn's 1,797 handwritten digits, gray images of 8 × 8 pixels.

    300 of them are the test split. They are the same for every seed.
    """
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    ids = np.arange(len(digits.target))
    labels = digits.target.astype(np.int32)
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    examples = Split(ids=ids, labels=labels, true_labels=labels,
                     images=ArrayImages(pixels, size=config.resized),
                     records=np.array([f"digits[{i}]" for i in ids]))
    train, test = draw_stratified(examples, DIGITS_TEST_EXAMPLES, seed=0, salt=TEST_SALT)
    return Source(tuple(str(name) for name in digits.target_names), train, test)
