"""Every supported image format is decoded as Pillow decodes it."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from mlnt_tf.data.images.decode import decode, resize

from pictures import encode, picture

SIZE = (40, 24)  # width, height
PICTURE = picture(SIZE)
GRAY16 = PIL.Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
JPEG_TOLERANCE = 16  # TensorFlow and Pillow use different inverse transforms and upsampling.
MAKE, ORIENTATION = 0x010F, 0x0112  # EXIF tags


def decode_with_tensorflow(encoded):
    image = decode(tf.constant(encoded))
    assert image.dtype == tf.uint8
    return image.numpy()


def decode_with_pillow(encoded):
    image = PIL.Image.open(io.BytesIO(encoded))
    return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))


def assert_close(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("mode, format, options", [
    ("RGB", "PNG", {}), ("L", "PNG", {}), ("LA", "PNG", {}), ("RGBA", "PNG", {}),
    ("P", "PNG", {}), ("1", "PNG", {}), ("P", "GIF", {}), ("RGB", "BMP", {}), ("RGBA", "BMP", {}),
    ("RGB", "WEBP", {"lossless": True})])
def test_lossless_formats_are_exact(mode, format, options):
    encoded = encode(PICTURE.convert(mode), format, **options)
    np.testing.assert_array_equal(decode_with_tensorflow(encoded), decode_with_pillow(encoded))


@pytest.mark.parametrize("mode, options", [
    ("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})])
def test_jpeg_is_close_in_every_color_mode(mode, options):
    encoded = encode(PICTURE.convert(mode), "JPEG", quality=95, **options)
    assert_close(decode_with_tensorflow(encoded), decode_with_pillow(encoded), JPEG_TOLERANCE)


def test_sixteen_bit_image_keeps_upper_eight_bits():
    decoded = decode_with_tensorflow(encode(GRAY16))
    np.testing.assert_array_equal(decoded[..., 0], np.asarray(GRAY16) >> 8)


@pytest.mark.parametrize("format, options", [
    ("GIF", {}), ("WEBP", {"lossless": True}), ("WEBP", {"lossless": True, "icc_profile": b"odd"})])
def test_first_frame_of_animation_is_decoded(format, options):
    frames = encode(PICTURE, format, save_all=True, append_images=[PICTURE.rotate(180)], **options)
    np.testing.assert_array_equal(decode_with_tensorflow(frames), decode_with_pillow(frames))


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, endian):
    exif = PIL.Image.Exif()
    exif.endian = endian
    exif[MAKE] = "a camera"
    exif[ORIENTATION] = orientation
    encoded = encode(PICTURE, "JPEG", quality=95, exif=exif)
    decoded = decode_with_tensorflow(encoded)
    assert decoded.shape[:2] == (SIZE if orientation >= 5 else SIZE[::-1])
    assert_close(decoded, decode_with_pillow(encoded), JPEG_TOLERANCE)


@pytest.mark.parametrize("format, options", [("PNG", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_orientation_of_png_and_webp_is_applied(format, options, orientation):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    encoded = encode(PICTURE, format, exif=exif, **options)
    np.testing.assert_array_equal(decode_with_tensorflow(encoded), decode_with_pillow(encoded))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparent_parts_are_composed_on_white(mode, format):
    image = PICTURE.convert("RGBA")
    ramp = np.linspace(0, 255, SIZE[0]).astype(np.uint8)
    image.putalpha(PIL.Image.fromarray(np.tile(ramp, (SIZE[1], 1))))
    options = {"lossless": True} if format == "WEBP" else {}
    encoded = encode(image.convert(mode), format, **options)
    stored = PIL.Image.open(io.BytesIO(encoded)).convert("RGBA")
    white = PIL.Image.new("RGBA", SIZE, "white")
    expected = np.asarray(PIL.Image.alpha_composite(white, stored).convert("RGB"))
    assert_close(decode_with_tensorflow(encoded), expected, tolerance=1)


def test_shape_that_only_the_alpha_channel_holds_is_seen():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:5, 2:5, 3] = 255
    decoded = decode_with_tensorflow(encode(PIL.Image.fromarray(pixels)))
    assert (decoded == np.where(pixels[..., 3:], 0, 255)).all()


def test_palette_with_a_transparent_color_is_composed_on_white():
    image = PICTURE.convert("P")
    color = image.getpixel((0, 0))
    decoded = decode_with_tensorflow(encode(image, transparency=color))
    np.testing.assert_array_equal(decoded[0, 0], [255, 255, 255])


def test_exif_without_orientation_changes_nothing():
    exif = PIL.Image.Exif()
    exif[MAKE] = "a camera"
    with_exif = decode_with_tensorflow(encode(PICTURE, "JPEG", exif=exif))
    np.testing.assert_array_equal(with_exif, decode_with_tensorflow(encode(PICTURE, "JPEG")))


def test_lossy_animation_with_alpha_is_decoded_and_a_damaged_one_refused():
    image = PICTURE.convert("RGBA")
    image.putalpha(0)
    frames = encode(image, "WEBP", save_all=True, append_images=[PICTURE.convert("RGBA")])
    assert (decode_with_tensorflow(frames) == 255).all()
    for damaged in (frames[:40], frames.replace(b"ANMF", b"NONE"), frames[:80]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(tf.constant(damaged))


@pytest.mark.parametrize("encoded", [
    b"", b"no image", encode(PICTURE, "JPEG")[:200], encode(PICTURE, "JPEG")[:-2],
    encode(PICTURE)[:60], encode(PICTURE, "TIFF"), encode(PICTURE.convert("P"), "BMP"),
    encode(PICTURE.convert("1"), "BMP")])
def test_damaged_or_unsupported_image_is_refused(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(encoded))


@pytest.mark.parametrize("size", [(16, 16), (8, 30), (60, 60)])
def test_resized_image_is_close_to_pillow(size):
    smooth = PICTURE.resize((90, 70), PIL.Image.BICUBIC)
    resized = resize(tf.constant(np.asarray(smooth)), size)
    assert resized.shape == (*size, 3) and resized.dtype == tf.uint8
    expected = np.asarray(smooth.resize(size[::-1], PIL.Image.BILINEAR))
    assert_close(resized.numpy(), expected, tolerance=2)


def test_image_of_requested_size_is_not_resized():
    image = tf.constant(np.asarray(PICTURE))
    assert resize(image, SIZE[::-1]) is image
