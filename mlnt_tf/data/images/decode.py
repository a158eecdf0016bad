"""Encoded images to pixels, the same in training and in the SavedModel.

JPEG, PNG, GIF (the first frame), BMP and WebP, grey, CMYK, palette, alpha (dropped) and 16 bits: all to uint8 RGB. The
orientation that EXIF gives a JPEG is applied, as viewers do and `tf.io.decode_image` does not. A BMP of under 24 bits is
refused: TensorFlow takes a palette's indices for grey.
"""

import tensorflow as tf

DECODER_VERSION = 1  # to raise where other images decode, or to another size: what was found of them before is void
HEADER = 1024  # bytes of a JPEG in which EXIF's orientation is looked for
# Tag 0x0112, type 3 (short), count 1, in either byte order; the value follows, high byte first in the first.
ORIENTATION_TAGS = {b"\x01\x12\x00\x03\x00\x00\x00\x01": 9, b"\x12\x01\x03\x00\x01\x00\x00\x00": 8}


def decode(encoded):
    """Encoded bytes, a string scalar, to uint8 [height, width, 3]."""
    header = tf.strings.substr(encoded, 0, 32)
    few_bits = tf.strings.regex_full_match(header, r"BM\C{26}[\x01\x04\x08]\C*")
    with tf.control_dependencies([tf.debugging.Assert(~few_bits, ["a BMP of under 24 bits: save it as PNG"])]):
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    has_exif = tf.strings.regex_full_match(header, r"\C*Exif\C*")
    return tf.cond(has_exif, lambda: apply_orientation(image, read_orientation(encoded)), lambda: image)


def read_orientation(encoded):
    """EXIF's orientation of a JPEG that begins with EXIF (after JFIF's own segment at most), 1 to 8; 1 if unknown."""
    header = tf.io.decode_raw(tf.strings.substr(encoded, 0, HEADER), tf.uint8)
    header = tf.pad(header, [[0, HEADER + 16 - tf.size(header)]])
    found = tf.constant(1, tf.int32)
    for tag, offset in ORIENTATION_TAGS.items():
        matches = tf.reduce_all(tf.stack([header[i:HEADER + i] == byte for i, byte in enumerate(tag)]), axis=0)
        place = tf.argmax(matches, output_type=tf.int32)
        value = tf.cast(header[place + offset], tf.int32)
        found = tf.where(tf.reduce_any(matches) & (value >= 1) & (value <= 8), value, found)
    return found


def apply_orientation(image, orientation):
    """An image as stored to the image as seen: transposed from 5 on, then flipped."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
    upended = tf.reduce_any(orientation == [3, 4, 7, 8])
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(upended, lambda: tf.reverse(image, [0]), lambda: image)


def resize(image, size):
    """uint8 [..., height, width, channels] to another (height, width), the aspect not kept; uint8.

    Bilinear, and averaging where it shrinks, as Pillow does.
    """
    height, width = size
    if image.shape[-3:-1] == (height, width):
        return image

    def resized():
        smooth = tf.image.resize(image, [height, width], antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(smooth), 0, 255), tf.uint8)

    image = tf.cond(tf.reduce_all(tf.shape(image)[-3:-1] == [height, width]), lambda: image, resized)
    return tf.ensure_shape(image, [*image.shape[:-3], height, width, image.shape[-1]])
