"""From the stored image to the network's input: crop, normalize, augment."""

import dataclasses
import typing

import numpy as np
import tensorflow as tf

PADDING = 4  # pixels on each edge, before the random crop of images that are not stored larger


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Scales to [0, 1] and subtracts `mean_image`, float32, of shape [height, width, channels] (as Tanaka et al. 2018)
    or [channels]."""

    mean_image: np.ndarray

    def __call__(self, images):
        """Images [..., height, width, channels] in 0 to 255, of any type, to float32."""
        mean = np.broadcast_to(self.mean_image, images.shape[-3:])  # TensorFlow is slow at it over a last axis of 3
        return tf.cast(images, tf.float32) / 255.0 - mean


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a network sees of an image.

    Args:
      stored: (height, width, channels) of the images before the crop.
      shape: (height, width, channels) of the network's input.
      normalize: a function of images in 0 to 255, [..., height, width, channels], to float32.
    """

    stored: tuple
    shape: tuple
    normalize: typing.Callable

    def __call__(self, images):
        """Images [..., stored] in 0 to 255: centre crop, normalize; float32 [..., shape]."""
        top, left = ((self.stored[axis] - self.shape[axis]) // 2 for axis in range(2))
        height, width, _ = self.shape
        return self.normalize(images[..., top:top + height, left:left + width, :])

    def augmented(self, image, key):
        """One image [stored]: random crop, flip with probability one half; float32 [shape].

        The crop is of the stored image where that is larger, of the normalized image padded by 4 zeros where not.

        Args:
          image: in 0 to 255.
          key: int32 [2], the seed of the draws.
        """
        if self.stored == self.shape:
            padded = tf.pad(self.normalize(image), [[PADDING, PADDING], [PADDING, PADDING], [0, 0]])
            return crop_and_flip(padded, self.shape, key)
        return self.normalize(crop_and_flip(image, self.shape, key))


def crop_and_flip(image, shape, key):
    """A crop of this shape at a place, flipped or not, as the key, int32 [2], decides."""
    draws = tf.random.stateless_uniform([3], key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    top, left = (tf.math.floormod(draws[axis], image.shape[axis] - shape[axis] + 1) for axis in range(2))
    cropped = tf.slice(image, [top, left, 0], shape)
    cropped.set_shape(shape)
    return tf.cond(tf.math.floormod(draws[2], 2) == 0, lambda: cropped, lambda: tf.reverse(cropped, axis=[1]))
