"""Image files of every kind that a real collection has, made on the spot."""

import io

import numpy as np
import PIL.Image


def picture(size=(12, 10), seed=0):
    """An RGB image of coloured blocks, (width, height): survives JPEG."""
    width, height = size
    blocks = np.random.default_rng(seed).integers(256, size=[-(-height // 4), -(-width // 4), 3], dtype=np.uint8)
    return PIL.Image.fromarray(np.kron(blocks, np.ones([4, 4, 1], np.uint8))[:height, :width])


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tree(root, layout, *, size=(12, 10)):
    """Writes {relative path: bytes, or None for a picture of its own} under a directory."""
    for seed, (path, content) in enumerate(layout.items()):
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode(picture(size, seed)) if content is None else content)
    return root
