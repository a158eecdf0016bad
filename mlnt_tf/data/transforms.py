"""From a stored image to the network's input: crop, normalization and augmentation."""

import dataclasses
import typing

import numpy as np
import tensorflow as tf

from mlnt_tf.models.normalization import mean_layers

# Pixels of padding on each edge before the random crop of images that are not larger than the crop.
PADDING = 4


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Scales images to [0, 1] and subtracts a mean, as Tanaka et al. (2018) do.

    Attributes:
      mean_image: float32 [height, width, channels], or [channels] for one mean per channel.
    """

    mean_image: np.ndarray

    def __call__(self, images):
        """Normalizes images.

        Args:
          images: [..., height, width, channels] of any dtype, with values in [0, 255].

        Returns:
          float32 [..., height, width, channels].
        """
        # TensorFlow broadcasts slowly along a last axis of 3, so NumPy does it once.
        mean = np.broadcast_to(self.mean_image, images.shape[-3:])
        return tf.cast(images, tf.float32) / 255.0 - mean

    def layers(self):
        """Returns Keras layers with the same results up to rounding, for a saved network."""
        return mean_layers(np.asarray(self.mean_image, np.float32))


@dataclasses.dataclass(frozen=True)
class FeatureInput:
    """Passes features of a frozen body on to the head that is trained on them.

    Attributes:
      size: int, the number of features.
    """

    size: int
    normalize = None

    @property
    def shape(self):
        return (self.size,)

    def __call__(self, features):
        return features


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Maps stored images to the network's input.

    Attributes:
      stored: (height, width, channels) of the stored images, before the crop.
      shape: (height, width, channels) of the network's input.
      normalize: function of images [..., height, width, channels] with values in [0, 255]. It
        returns float32 of the same shape. Its method `layers` returns Keras layers that do the
        same, for saved networks.
    """

    stored: tuple
    shape: tuple
    normalize: typing.Callable

    def __call__(self, images):
        """Takes the center crop and normalizes it.

        Args:
          images: [..., *stored], with values in [0, 255].

        Returns:
          float32 [..., *shape].
        """
        height, width, _ = self.shape
        top = (self.stored[0] - height) // 2
        left = (self.stored[1] - width) // 2
        return self.normalize(images[..., top:top + height, left:left + width, :])

    def augment(self, image, key):
        """Takes a random crop, flips it with probability 0.5, and normalizes it.

        If the stored image has the network's shape, the crop is taken from the normalized image,
        padded with 4 zeros on each edge.

        Args:
          image: [*stored], with values in [0, 255].
          key: int32 [2]. The result depends only on the image and the key.

        Returns:
          float32 [*shape].
        """
        if self.stored == self.shape:
            paddings = [[PADDING, PADDING], [PADDING, PADDING], [0, 0]]
            return _crop_and_flip(tf.pad(self.normalize(image), paddings), self.shape, key)
        return self.normalize(_crop_and_flip(image, self.shape, key))


def _crop_and_flip(image, shape, key):
    """Returns a random crop of this shape, flipped with probability 0.5."""
    draws = tf.random.stateless_uniform(
        [3], key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    top = tf.math.floormod(draws[0], image.shape[0] - shape[0] + 1)
    left = tf.math.floormod(draws[1], image.shape[1] - shape[1] + 1)
    cropped = tf.slice(image, [top, left, 0], shape)
    cropped.set_shape(shape)
    keep = tf.math.floormod(draws[2], 2) == 0
    return tf.cond(keep, lambda: cropped, lambda: tf.reverse(cropped, axis=[1]))
