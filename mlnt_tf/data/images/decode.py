"""Decoding and resizing of images in TensorFlow, for training and for the SavedModel alike.

JPEG, PNG, GIF, BMP and WebP become uint8 RGB, whether they are gray, CMYK, palette or 16 bits per
channel. Of an animation, the first frame is decoded. Transparent parts of PNG and WebP are composed
on white, except the single transparent color that a PNG without a palette may name. The orientation
that EXIF gives a JPEG, PNG or WebP is applied. Image viewers do both, and `tf.io.decode_image` does
not. A BMP of less than 24 bits per pixel is refused, because TensorFlow would read palette indices
as gray values.
"""

import tensorflow as tf

from mlnt_tf.config.data import CroppedSize

# Raise this if other images can be decoded, or decode to another size: it invalidates cached scans.
DECODER_VERSION = 2
HEADER_BYTES = 1024  # The part of a JPEG, or of EXIF in another format, that is searched.
EDGE_BYTES = 2**16  # EXIF of PNG and WebP is searched in this many bytes at both ends of the file.
# {tag 0x0112, type 3 (short), count 1: offset of the value's byte}, in both byte orders.
ORIENTATION_TAGS = {
    b"\x01\x12\x00\x03\x00\x00\x00\x01": 9, b"\x12\x01\x03\x00\x01\x00\x00\x00": 8}


def decode(encoded):
    """Decodes one image.

    Args:
      encoded: string scalar, the bytes of the file.

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: the image is damaged, or its format is not supported.
    """
    header = tf.strings.substr(encoded, 0, 32)
    is_palette_bmp = tf.strings.regex_full_match(header, r"BM\C{26}[\x01\x04\x08]\C*")
    refusal = tf.debugging.Assert(
        ~is_palette_bmp, ["A BMP of less than 24 bits per pixel is not supported. Save it as PNG."])
    # RE2 reads \x89 as a code point, so the first byte of a PNG is not compared.
    is_png = tf.strings.regex_full_match(header, r"\CPNG\r\n\C*")
    is_webp = tf.strings.regex_full_match(header, r"RIFF\C{4}WEBP\C*")
    # Palette (its colors may be transparent), gray with alpha, and RGBA.
    may_have_alpha = tf.strings.regex_full_match(header, r"\CPNG\C{21}[\x03\x04\x06]\C*")
    with tf.control_dependencies([refusal]):
        image = tf.case(
            [(is_webp, lambda: _compose_on_white(_decode_webp(encoded))),
             (may_have_alpha, lambda: _compose_on_white(tf.io.decode_png(encoded, channels=4)))],
            default=lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False))
    image.set_shape([None, None, 3])
    has_exif = tf.strings.regex_full_match(header, r"\C*Exif\C*")
    orientation = tf.case([(has_exif, lambda: _read_orientation(encoded)),
                           (is_png | is_webp, lambda: _read_orientation_at_edges(encoded))],
                          default=lambda: tf.constant(1))
    return tf.cond(orientation > 1, lambda: _apply_orientation(image, orientation), lambda: image)


def _decode_webp(encoded):
    """Returns a WebP, or the first frame of an animation: uint8 [height, width, 3 or 4].

    TensorFlow accepts only the number of channels that the file has, so it is left open. It never
    gets an animation, because decoding one corrupts the memory of TensorFlow 2.20.
    """
    header = tf.strings.join([tf.strings.substr(encoded, 0, 32), b"\0" * 32])
    flags = tf.io.decode_raw(tf.strings.substr(header, 20, 1), tf.uint8)[0]
    is_animated = (tf.strings.substr(header, 12, 4) == b"VP8X") & (flags & 2 > 0)
    still = tf.cond(is_animated, lambda: _first_frame(encoded), lambda: encoded)
    image = tf.io.decode_image(still, channels=0, expand_animations=False)
    image.set_shape([None, None, None])
    return image


def _first_frame(encoded):
    """Returns the first frame of an animated WebP as a file of its own, a string scalar.

    Chunks have a name of 4 bytes and a size of 4 bytes. After VP8X, which ends at byte 30, come an
    optional color profile (ICCP), ANIM of 14 bytes in all, and ANMF for each frame. ANMF begins
    with 6 bytes of position, 6 of size and 4 of other fields, before the chunks of a still image.
    """
    # A damaged file must not be read beyond its end, because TensorFlow's error quotes its bytes.
    length = tf.strings.length(encoded)
    encoded = tf.strings.join([encoded, b"\0" * 64])

    def read_size(start):
        size = tf.io.decode_raw(tf.strings.substr(encoded, start + 4, 4), tf.int32)[0]
        return tf.clip_by_value(size, 0, length)

    start = tf.constant(30)
    has_profile = tf.strings.substr(encoded, start, 4) == b"ICCP"
    start += tf.cond(has_profile, lambda: 8 + (read_size(start) + 1) // 2 * 2, lambda: 0)
    start = tf.minimum(start + 14, length)
    refusal = tf.debugging.Assert(
        tf.strings.substr(encoded, start, 4) == b"ANMF",
        ["The first frame of this animated WebP is not found. Save it as PNG."])
    with tf.control_dependencies([refusal]):
        size = read_size(start)
    image = tf.strings.substr(encoded, start + 24, tf.maximum(size - 16, 0))
    # VP8X: its size, the flag of alpha, 3 bytes of 0, and width and height of the frame.
    extension = tf.strings.join([b"WEBPVP8X\x0a\0\0\0\x10\0\0\0",
                                 tf.strings.substr(encoded, start + 14, 6)])
    total = tf.strings.length(extension) + tf.strings.length(image)
    digits = [total // 256**power % 256 for power in range(4)]
    every_byte = tf.constant([bytes([value]) for value in range(256)])
    return tf.strings.join([b"RIFF", *(every_byte[digit] for digit in digits), extension, image])


def _compose_on_white(image):
    """Returns an image as it looks on a white page. Opaque pixels keep their values.

    Args:
      image: uint8 [height, width, 3 or 4].

    Returns:
      uint8 [height, width, 3].
    """
    def compose():
        color, alpha = tf.cast(image[..., :3], tf.int32), tf.cast(image[..., 3:], tf.int32)
        return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    is_transparent = tf.reduce_any(image[..., 3:] < 255)  # False without a fourth channel.
    return tf.cond(is_transparent, compose, lambda: image[..., :3])


def _read_orientation_at_edges(encoded):
    """Returns EXIF's orientation of a PNG or WebP, int32 scalar; 1 if it is not found.

    The bytes after a chunk's name are searched: "eXIf" in a PNG, "EXIF" in a WebP.
    """
    size = tf.strings.length(encoded)
    start = tf.strings.substr(encoded, 0, EDGE_BYTES)
    end = tf.strings.substr(encoded, tf.maximum(size - EDGE_BYTES, 0), EDGE_BYTES)
    # Camera software writes the byte order, after a size and perhaps a name in a WebP.
    chunk = r"\C*?(eXIf|EXIF\C{4}(Exif\C{2})?)((II|MM)\C*)"
    orientations = []
    for edge in (start, end):
        is_found = tf.strings.regex_full_match(edge, chunk)
        rest = tf.strings.regex_replace(edge, chunk, r"\3")
        orientations.append(tf.cond(is_found, lambda rest=rest: _read_orientation(rest),
                                    lambda: tf.constant(1)))
    return tf.maximum(*orientations)


def _read_orientation(encoded):
    """Returns EXIF's orientation of a JPEG, int32 scalar in 1 to 8; 1 if it is not found.

    EXIF must come first in the file or directly after the JFIF segment.
    """
    header = tf.io.decode_raw(tf.strings.substr(encoded, 0, HEADER_BYTES), tf.uint8)
    header = tf.pad(header, [[0, HEADER_BYTES + 16 - tf.size(header)]])
    orientation = tf.constant(1, tf.int32)
    for tag, offset in ORIENTATION_TAGS.items():
        byte_matches = [header[i:HEADER_BYTES + i] == byte for i, byte in enumerate(tag)]
        tag_matches = tf.reduce_all(tf.stack(byte_matches), axis=0)
        start = tf.argmax(tag_matches, output_type=tf.int32)
        value = tf.cast(header[start + offset], tf.int32)
        is_valid = tf.reduce_any(tag_matches) & (value >= 1) & (value <= 8)
        orientation = tf.where(is_valid, value, orientation)
    return orientation


def _apply_orientation(image, orientation):
    """Turns an image as stored into the image as viewed: a transposition from 5 on, then flips."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    flip_horizontally = tf.reduce_any(orientation == [2, 3, 6, 7])
    flip_vertically = tf.reduce_any(orientation == [3, 4, 7, 8])
    image = tf.cond(flip_horizontally, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(flip_vertically, lambda: tf.reverse(image, [0]), lambda: image)


def resize(image, size):
    """Resizes images.

    The interpolation is bilinear. It averages when it shrinks an image, as Pillow does.

    Args:
      image: uint8 [..., height, width, channels].
      size: (height, width) of the result. With a plain tuple, images are stretched. With a
        `CroppedSize`, the largest part in the center that has the result's aspect ratio is resized.
        This gives what resizing by the shorter side and cropping the center would give, and costs
        less.

    Returns:
      uint8 [..., height, width, channels]. Images that already have the size are not changed.
    """
    height, width = size
    if image.shape[-3:-1] == (height, width):
        return image

    def interpolate():
        part = _center_part(image, height, width) if isinstance(size, CroppedSize) else image
        resized = tf.image.resize(part, [height, width], antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    has_size = tf.reduce_all(tf.shape(image)[-3:-1] == [height, width])
    result = tf.cond(has_size, lambda: image, interpolate)
    return tf.ensure_shape(result, [*image.shape[:-3], height, width, image.shape[-1]])


def _center_part(image, height, width):
    """Returns the largest part in the center with the aspect ratio of (height, width)."""
    shape = tf.shape(image)
    full_height, full_width = shape[-3], shape[-2]
    # The integer form of round(full_width * height / width), and at least one pixel.
    part_height = tf.maximum((2 * full_width * height + width) // (2 * width), 1)
    part_width = tf.maximum((2 * full_height * width + height) // (2 * height), 1)
    part_height = tf.minimum(part_height, full_height)
    part_width = tf.minimum(part_width, full_width)
    top, left = (full_height - part_height) // 2, (full_width - part_width) // 2
    return image[..., top:top + part_height, left:left + part_width, :]
