"""Image files for tests, generated instead of stored."""

import io

import numpy as np
import PIL.Image


def picture(size=(12, 10), seed=0):
    """Returns an RGB image of colored blocks, which survive JPEG compression.

    Args:
      size: (width, height), the order that Pillow uses.
      seed: int, determines the colors.
    """
    width, height = size
    num_blocks = [-(-height // 4), -(-width // 4), 3]
    blocks = np.random.default_rng(seed).integers(256, size=num_blocks, dtype=np.uint8)
    pixels = np.kron(blocks, np.ones([4, 4, 1], np.uint8))[:height, :width]
    return PIL.Image.fromarray(pixels)


def encode(image, format="PNG", **options):
    """Returns the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tree(root, layout, *, size=(12, 10)):
    """Writes files below a directory, and returns the directory.

    Args:
      root: pathlib.Path.
      layout: dict of relative path to bytes, or to None for a picture that no other file has.
      size: (width, height) of these pictures.
    """
    for seed, (name, content) in enumerate(layout.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(size, seed)) if content is None else content)
    return root
