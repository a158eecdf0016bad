"""Small copies of images as data URIs, within a limit of bytes.

Thumbnails are made of the images at their own size and keep the aspect ratio, unlike the images
that a network gets.
"""

import base64
import io

import numpy as np
import PIL.features
import PIL.Image
import tensorflow as tf

from mlnt_tf.config import UserError

NEIGHBOR_SIDE = 48  # Pixels of the longer side.
SIDE = 320
NEIGHBOR_BYTES = 700
SMALL_SIDE = 64  # Images up to this size are enlarged with visible pixels.
MIN_SIDE = 32
HIGH, MEDIUM, LOW = 80, 60, 45  # Qualities of the compression, 0 to 100.
LOW_SAVES = 1.3  # An image of medium quality has about this many times the bytes of a low one.


def encode_thumbnails(splits, sides, limits):
    """Makes the thumbnails of some images.

    Args:
      splits: dict of name to `Split`. Their rows are counted through, in this order.
      sides: dict of row to the longest side in pixels.
      limits: dict of row to the size in bytes before the encoding as text.

    Returns:
      (dict of row to data URI, whether all images have at most SMALL_SIDE pixels a side).

    Raises:
      UserError: an image cannot be read any more.
    """
    encoded, is_small, start = {}, True, 0
    for name, split in splits.items():
        stop = start + len(split)
        rows = sorted(row for row in sides if start <= row < stop)
        if rows:
            images = split.images.take(np.array(rows) - start)
            try:
                for row, pixels in zip(rows, images.full_size()):
                    is_small &= max(pixels.shape[:2]) <= SMALL_SIDE
                    encoded[row] = data_uri(pixels, side=sides[row], limit=limits[row])
            except tf.errors.OpError as error:
                raise UserError(f"An image of the {name} split cannot be read any more "
                                f"({str(error).splitlines()[0]}). Restore it, or write the label "
                                "issues again.") from error
        start = stop
    return encoded, is_small


def data_uri(pixels, *, side, limit):
    """Returns an image as a data URI.

    It is shrunk to the side and further until it meets the limit with at least low quality. Images
    are never enlarged. Small ones are stored without loss if that meets the limit.

    Args:
      pixels: uint8 [height, width, channels].
      side: int, the largest height and width.
      limit: int, bytes. It may be exceeded by an image of MIN_SIDE pixels.
    """
    image = _as_image(pixels)
    is_small = max(image.size) <= SMALL_SIDE
    image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS, reducing_gap=2)
    if is_small:
        content = _encode(image, lossless=True)
        if len(content) <= limit:
            return _as_uri(content)
    while True:
        content = _encode(image, quality=MEDIUM)
        if len(content) <= limit:
            better = _encode(image, quality=HIGH)
            return _as_uri(better if len(better) <= limit else content)
        is_smallest = max(image.size) <= MIN_SIDE
        if is_smallest or len(content) <= LOW_SAVES * limit:
            smaller = _encode(image, quality=LOW)
            if is_smallest or len(smaller) <= limit:
                return _as_uri(smaller)
        # The size in bytes is nearly proportional to the number of pixels.
        scale = min(0.9, max(0.5, (limit / len(content)) ** 0.5))
        side = max(round(scale * max(image.size)), MIN_SIDE)
        image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)


def _as_image(pixels):
    channels = pixels.shape[-1]
    if channels < 3:
        return PIL.Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return PIL.Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def _encode(image, **options):
    """Returns the bytes of a WebP file, or of a PNG or JPEG file if Pillow lacks WebP."""
    buffer = io.BytesIO()
    if PIL.features.check("webp"):
        image.save(buffer, "WEBP", method=2, **options)
    elif options.get("lossless"):
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", optimize=True, **options)
    return buffer.getvalue()


def _as_uri(content):
    kind = {b"RIFF": "webp", b"\x89PNG": "png"}.get(content[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
