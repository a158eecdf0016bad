"""Batches of arrays for `fit`, in an order that only depends on a seed and the epoch."""

import keras
import tensorflow as tf

from mlnt_tf.data.pipeline import fold_key

DEFAULT_BATCH_SIZE = 32  # Keras's.


class ArrayBatches(keras.callbacks.Callback):
    """Batches of arrays. Their order is a pure function of (seed, epoch).

    It must be among the callbacks of `fit`, which tell it the epoch.

    Args:
      columns: dict of arrays with one row per example.
      batch_size: int.
      shuffle: bool.
      seed: int.
      steps_per_epoch: int, or None for one pass. More steps pass over the data repeatedly.
    """

    def __init__(self, columns, *, batch_size, shuffle, seed, steps_per_epoch=None):
        super().__init__()
        with tf.device("CPU"):
            self.columns = {name: tf.convert_to_tensor(value) for name, value in columns.items()}
        self.count = len(columns["label"])
        self.batch_size = min(batch_size or DEFAULT_BATCH_SIZE, self.count)
        self.shuffle = shuffle
        self.seed = seed
        self.steps = steps_per_epoch or -(-self.count // self.batch_size)
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def dataset(self):
        """Returns a tf.data.Dataset of the batches of `self.epoch`, as it is when iterated."""
        def batches_of_pass(epoch, repeat):
            order = tf.range(self.count)
            if self.shuffle:
                draws = tf.random.stateless_uniform(
                    [self.count], fold_key(self.seed, epoch, repeat), minval=None, maxval=None,
                    dtype=tf.int32, alg="philox")
                order = tf.argsort(draws, stable=True)
            rows = tf.data.Dataset.from_tensor_slices(order)
            # Without a remainder, the batch size is static.
            return rows.batch(self.batch_size, drop_remainder=self.count % self.batch_size == 0)

        def batches_of_epoch(epoch):
            passes = tf.data.Dataset.range(2**31 - 1)
            return passes.flat_map(lambda repeat: batches_of_pass(epoch, repeat)).take(self.steps)

        def gather(rows):
            return {name: tf.gather(column, rows) for name, column in self.columns.items()}

        # `fit` makes a new iterator in each epoch, which calls the function.
        epoch = tf.data.Dataset.from_generator(
            lambda: [self.epoch], output_signature=tf.TensorSpec([], tf.int64))
        batches = epoch.flat_map(batches_of_epoch).map(gather, num_parallel_calls=2).prefetch(2)
        return batches.apply(tf.data.experimental.assert_cardinality(self.steps))
