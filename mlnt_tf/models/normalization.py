"""Normalization of images by constants, as networks with published weights expect it."""

import dataclasses

import keras


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
