"""From a stored image to the network's input: crop, normalization and augmentation."""

import dataclasses
import typing

import numpy as np
import tensorflow as tf

from mlnt_tf.data.images import decode
from mlnt_tf.models.normalization import mean_layers

# Pixels of padding on each edge before the random crop of images that are not larger than the crop.
PADDING = 4
ASPECT_RATIOS = (3 / 4, 4 / 3)  # Of a random crop that is resized: width / height.


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
      resized: (height, width) for `decode.resize`, which turns an image of any size into a stored
        one. None stretches it to the stored size.
      crop_scale: float in (0, 1], the smallest area of a random crop, as a fraction of the stored
        image. 1 means crops of the network's shape, which are not resized.
    """

    stored: tuple
    shape: tuple
    normalize: typing.Callable
    resized: tuple | None = None
    crop_scale: float = 1.0

    def resize(self, images):
        """Returns images of any size, uint8 [..., height, width, channels], as stored ones."""
        return decode.resize(images, self.resized or self.stored[:2])

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
        padded with 4 zeros on each edge. With `crop_scale` below 1, it is a part of random area and
        of a random aspect ratio between 3/4 and 4/3, resized to the network's shape.

        Args:
          image: [*stored], with values in [0, 255].
          key: int32 [2]. The result depends only on the image and the key.

        Returns:
          float32 [*shape].
        """
        if self.crop_scale < 1:
            part = _random_part(image, self.crop_scale, key)
            resized = tf.image.resize(part, self.shape[:2], antialias=True)
            flip_key = tf.random.experimental.stateless_fold_in(key, 1, alg="philox")
            return self.normalize(_crop_and_flip(resized, self.shape, flip_key))
        if self.stored == self.shape:
            paddings = [[PADDING, PADDING], [PADDING, PADDING], [0, 0]]
            return _crop_and_flip(tf.pad(self.normalize(image), paddings), self.shape, key)
        return self.normalize(_crop_and_flip(image, self.shape, key))


def _random_part(image, min_area, key):
    """Returns a part of an image with a random area and aspect ratio (Szegedy et al. 2015).

    Args:
      image: [height, width, channels].
      min_area: float, the smallest area as a fraction of the image. The largest is the whole image.
      key: int32 [2].
    """
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        image.shape, whole, seed=key, min_object_covered=0.0, aspect_ratio_range=ASPECT_RATIOS,
        area_range=(min_area, 1.0), max_attempts=20, use_image_if_no_bounding_boxes=True)
    return tf.slice(image, begin, size)


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
