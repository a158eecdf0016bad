"""Normalization of images by constants, as networks with published weights expect it."""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Computes (x - shift) / divisor in float32.

    Args:
      shift: tuple of float, one for each channel, or of length 1 for all channels.
      divisor: tuple of float, as `shift`.
    """

    shift: tuple
    divisor: tuple

    def __call__(self, images):
        """Images [..., height, width, channels] in 0 to 255, of any type, to float32."""
        images = keras.ops.cast(images, "float32")
        return (images - self.shift) / self.divisor

    def layers(self):
        """Returns Keras layers with the same results up to rounding, for a saved network."""
        if not any(self.shift) and set(self.divisor) == {1.0}:
            return []
        shift, divisor = np.broadcast_arrays(self.shift, self.divisor)
        return [rescaling(1 / divisor, -shift / divisor)]

    @property
    def channels(self):
        """The number of channels that images must have, or None if any number will do."""
        count = max(len(self.shift), len(self.divisor))
        return count if count > 1 else None


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALINGS = {
    "imagenet": Scaling(shift=tuple(255.0 * mean for mean in IMAGENET_MEAN),
                        divisor=tuple(255.0 * std for std in IMAGENET_STD)),
    "minus_one_to_one": Scaling(shift=(127.5,), divisor=(127.5,)),
    "none": Scaling(shift=(0.0,), divisor=(1.0,)),
}


def rescaling(scale, offset):
    """Returns the Keras layer of x * scale + offset, in float32 at every precision.

    Args:
      scale: array [channels], or [1] for all channels.
      offset: array of the same shape.
    """
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), dtype="float32",
                                  name="input_rescaling")


def mean_layers(mean):
    """Returns Keras layers that scale images to [0, 1] and subtract a mean, as weights.

    Args:
      mean: float32 [height, width, channels], or [channels] for one mean per channel.
    """
    axes = (1, 2, 3) if mean.ndim == 3 else -1
    subtract = keras.layers.Normalization(axis=axes, dtype="float32", name="input_mean")
    subtract.build((None, *mean.shape) if mean.ndim == 3 else (None, None, None, *mean.shape))
    subtract.set_weights([mean, np.ones_like(mean), np.zeros([])])
    subtract.finalize_state()  # The layer keeps a copy of its weights.
    return [rescaling(np.array([1 / 255]), np.array([0.0])), subtract]
