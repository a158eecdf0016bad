"""Every kind of file comes out as Pillow shows it."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from mlnt_tf.data.images.decode import decode, resize

from pictures import encode, picture

SIZE = (40, 24)
PICTURE = picture(SIZE)
GREY16 = PIL.Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)


def decoded(encoded):
    image = decode(tf.constant(encoded))
    assert image.dtype == tf.uint8
    return image.numpy()


def shown(encoded):
    image = PIL.Image.open(io.BytesIO(encoded))
    return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("mode, kind, options", [
    ("RGB", "PNG", {}), ("L", "PNG", {}), ("LA", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}),
    ("P", "GIF", {}), ("RGB", "BMP", {}), ("RGBA", "BMP", {}), ("RGB", "WEBP", {"lossless": True})])
def test_lossless_kinds_are_exact(mode, kind, options):
    encoded = encode(PICTURE.convert(mode), kind, **options)
    np.testing.assert_array_equal(decoded(encoded), shown(encoded))


@pytest.mark.parametrize("mode, options", [("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})])
def test_jpeg_grey_cmyk_and_progressive(mode, options):
    encoded = encode(PICTURE.convert(mode), "JPEG", quality=95, **options)
    assert np.abs(decoded(encoded).astype(int) - shown(encoded)).max() <= 16


def test_sixteen_bits_keep_the_upper_eight():
    np.testing.assert_array_equal(decoded(encode(GREY16))[..., 0], np.asarray(GREY16) >> 8)


def test_an_animation_gives_its_first_frame():
    frames = encode(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(180)])
    np.testing.assert_array_equal(decoded(frames), shown(frames))


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_exif_is_applied(orientation, endian):
    exif = PIL.Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112] = "a camera", orientation
    encoded = encode(PICTURE, "JPEG", quality=95, exif=exif)
    image = decoded(encoded)
    assert image.shape[:2] == (SIZE if orientation >= 5 else SIZE[::-1])
    assert np.abs(image.astype(int) - shown(encoded)).max() <= 16


def test_exif_without_an_orientation_leaves_the_image_as_it_is():
    exif = PIL.Image.Exif()
    exif[0x010F] = "a camera"
    assert decoded(encode(PICTURE, "JPEG", exif=exif)).shape[:2] == SIZE[::-1]


@pytest.mark.parametrize("encoded", [
    b"", b"no image", encode(PICTURE, "JPEG")[:200], encode(PICTURE, "JPEG")[:-2], encode(PICTURE)[:60],
    encode(PICTURE, "TIFF"), encode(PICTURE.convert("P"), "BMP"), encode(PICTURE.convert("1"), "BMP")])
def test_what_is_broken_or_would_come_out_wrong_is_refused(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(tf.constant(encoded))


@pytest.mark.parametrize("size", [(16, 16), (8, 30), (60, 60)])
def test_resizing_is_close_to_pillows(size):
    smooth = PICTURE.resize((90, 70), PIL.Image.BICUBIC)
    mine = resize(tf.constant(np.asarray(smooth)), size)
    theirs = np.asarray(smooth.resize(size[::-1], PIL.Image.BILINEAR)).astype(int)
    assert mine.shape == (*size, 3) and mine.dtype == tf.uint8
    assert np.abs(mine.numpy() - theirs).max() <= 2


def test_an_image_of_the_right_size_is_left_alone():
    image = tf.constant(np.asarray(PICTURE))
    assert resize(image, SIZE[::-1]) is image
