"""Mixup (Zhang, Cissé, Dauphin, Lopez-Paz, ICLR 2018): averages of two images and their labels."""

import dataclasses

import tensorflow as tf

SALT = 0x6D6978  # "mix" in ASCII. The key is that of the image's augmentation.


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Mixes neighboring examples of a batch: x_i <- w_i x_i + (1 - w_i) x_j.

    The examples 0 and 1 are a pair, 2 and 3, and so on. The order of the data is random, so the
    pairs are too. A weight is a function of the example's key alone. The result therefore does not
    depend on how a batch is divided among replicas, if each part is even.

    Attributes:
      alpha: float above 0. A weight is drawn from Beta(alpha, alpha).
      num_classes: int.
    """

    alpha: float
    num_classes: int

    def draw(self, key):
        """Returns w, a float32 scalar in 0.5 … 1, so that an image keeps the larger share.

        Args:
          key: int32 [2], the key of the example.
        """
        key = tf.random.experimental.stateless_fold_in(key, SALT, alg="philox")
        first, second = tf.unstack(tf.random.stateless_gamma([2], key, self.alpha))
        weight = tf.math.divide_no_nan(first, first + second)  # A small alpha can draw 0 and 0.
        return tf.maximum(weight, 1 - weight)

    def mix_pairs(self, batch):
        """Mixes images, labels and weights of a batch.

        Args:
          batch: dict with "mixup_weight" float32 [batch], from `draw`; see `training_batches`.

        Returns:
          dict without "mixup_weight" and with "probabilities", float32 [batch, classes]. Other
          columns keep the value of the image with the larger share. The last example of an odd
          batch is not mixed.
        """
        batch = dict(batch)
        weight = batch.pop("mixup_weight")
        size = tf.shape(weight)[0]
        partner = tf.minimum(tf.bitwise.bitwise_xor(tf.range(size), 1), size - 1)
        if "probabilities" not in batch:
            batch["probabilities"] = tf.one_hot(batch["label"], self.num_classes)

        def mix(values):
            share = tf.reshape(weight, [-1] + [1] * (len(values.shape) - 1))
            return share * values + (1 - share) * tf.gather(values, partner)

        mixed = {name: mix(batch[name]) for name in ("image", "probabilities", "weight")
                 if name in batch}
        return {**batch, **mixed}
