"""Storage of feature vectors with the interface of images (see `storage`)."""

import functools

import numpy as np
import tensorflow as tf

from mlnt_tf.data.images.storage import RandomAccessImages


class FeatureImages(RandomAccessImages):
    """Feature vectors in place of images, for a network that begins after a frozen body.

    Args:
      array: float32 [n, features], in memory or memory-mapped.
    """

    nbytes = 0

    def __init__(self, array):
        self.array = array
        self.shape = array.shape[1:]

    def __len__(self):
        return len(self.array)

    def take(self, rows):
        return FeatureImages(self.array[rows])

    @functools.cached_property
    def tensor(self):
        with tf.init_scope():  # The constant outlives the data set in which it is first used.
            return tf.constant(self.array)

    def pixels(self, handle):
        """Returns the features of a position, float32 [features]."""
        if not isinstance(self.array, np.memmap):
            return self.tensor[handle]
        row = tf.numpy_function(lambda position: self.array[position], [handle], tf.float32)
        return tf.ensure_shape(row, self.shape)
