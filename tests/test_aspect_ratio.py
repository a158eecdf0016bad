"""--keep_aspect_ratio and --crop_scale: resizing without stretching, and random resized crops."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import Config, UserError
from mlnt_tf.config.data import CroppedSize
from mlnt_tf.data import load, transforms
from mlnt_tf.data.images import storage
from mlnt_tf.data.images.decode import resize
from mlnt_tf.data.sources import load_source


def gradient_image(height, width):
    """Returns an image whose red channel grows with the row, and green with the column."""
    rows = np.linspace(0, 255, height)[:, None] + np.zeros([height, width])
    columns = np.linspace(0, 255, width)[None] + np.zeros([height, width])
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("height, width", [(40, 80), (80, 40), (60, 60), (33, 101)])
def test_kept_aspect_ratio_equals_pillow_resizing_the_center(height, width):
    image = gradient_image(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    center = PIL.Image.fromarray(image[top:top + side, left:left + side])
    expected = np.asarray(center.resize((16, 16), PIL.Image.Resampling.BILINEAR), np.int32)
    actual = resize(tf.constant(image), CroppedSize((16, 16)))
    assert np.abs(np.int32(actual) - expected).max() <= 2


def test_kept_aspect_ratio_equals_resizing_by_the_shorter_side_then_cropping():
    image = tf.constant(gradient_image(48, 96))
    shorter_side_first = resize(image, (16, 32))[:, 8:24]
    actual = resize(image, CroppedSize((16, 16)))
    assert np.abs(np.int32(actual) - np.int32(shorter_side_first)).max() <= 2


@pytest.mark.parametrize("height, width", [(1, 50), (50, 1), (1, 1), (3, 2)])
def test_extreme_images_have_the_asked_size(height, width):
    resized = resize(tf.constant(gradient_image(height, width)), CroppedSize((6, 4)))
    assert resized.shape == (6, 4, 3)


def test_size_of_other_proportions_keeps_the_aspect_ratio():
    image = tf.constant(gradient_image(60, 60))
    actual = np.int32(resize(image, CroppedSize((10, 20))))  # The center of 30 x 60 pixels.
    expected = np.int32(resize(image[15:45], (10, 20)))
    np.testing.assert_array_equal(actual, expected)


def test_image_of_the_size_is_unchanged_and_a_plain_tuple_stretches():
    image = gradient_image(16, 16)
    np.testing.assert_array_equal(resize(tf.constant(image), CroppedSize((16, 16))), image)
    stretched = resize(tf.constant(gradient_image(16, 32)), (16, 16))
    assert stretched[0, 0, 1] < 10 and stretched[0, -1, 1] > 245


def test_every_source_and_the_export_receive_the_flag(tmp_path):
    config = Config(image_size=6, keep_aspect_ratio=True, width=2)
    images = load_source(config).train.images
    assert isinstance(images.size, CroppedSize)
    preprocess = load.build_preprocess(config, images)
    wide = gradient_image(12, 24)[..., 1:2]
    expected = preprocess(resize(tf.constant(wide), CroppedSize((6, 6)))[None])
    np.testing.assert_array_equal(preprocess(preprocess.resize(tf.constant(wide))[None]), expected)


def test_files_keep_their_aspect_ratio_and_are_served_alike(tmp_path):
    image = gradient_image(20, 40)
    PIL.Image.fromarray(image).save(tmp_path / "wide.png")
    files = storage.FileImages([b"wide.png"], root=str(tmp_path), size=CroppedSize((8, 8)))
    stored = storage.load_into_memory(files).array
    np.testing.assert_array_equal(stored[0], resize(tf.constant(image), CroppedSize((8, 8))))
    network = mlnt_tf.build_network("cnn", width=2, input_shape=(8, 8, 3), num_classes=2, seed=0)
    unit_range = transforms.Normalizer(np.zeros([3], np.float32))
    preprocess = transforms.Preprocess((8, 8, 3), (8, 8, 3), unit_range,
                                       resized=CroppedSize((8, 8)))
    path = mlnt_tf.export_saved_model(network, tmp_path / "model", preprocess=preprocess,
                                      class_names=("a", "b"))
    encoded = io.BytesIO()
    PIL.Image.fromarray(image).save(encoded, "PNG")
    signatures = tf.saved_model.load(str(path)).signatures
    expected = tf.nn.softmax(network(preprocess(stored)))
    for served in (signatures["serving_default"](tf.constant([encoded.getvalue()])),
                   signatures["images"](tf.constant(image[None]))):
        np.testing.assert_allclose(served["probabilities"], expected, atol=1e-6)


def augment(image, key, *, shape=(8, 8, 3), crop_scale=.2):
    preprocess = transforms.Preprocess(image.shape, shape, lambda pixels: pixels,
                                       crop_scale=crop_scale)
    return np.asarray(preprocess.augment(tf.constant(image), tf.constant([0, key])))


def test_random_resized_crop_depends_only_on_image_and_key():
    image = gradient_image(32, 32)
    crops = [augment(image, key) for key in range(8)]
    for key, crop in enumerate(crops):
        assert crop.shape == (8, 8, 3)
        np.testing.assert_array_equal(crop, augment(image, key))
    assert len({crop.tobytes() for crop in crops}) == 8


def test_random_resized_crop_has_the_asked_areas_ratios_and_flips():
    image = gradient_image(256, 256).astype(np.float32)
    flips = 0
    areas = []
    for key in range(60):
        crop = augment(image, key, shape=(32, 32, 3))
        height = (crop[-1, 0, 0] - crop[0, 0, 0]) / 255 * 32 / 31  # As fractions of the image.
        width = (crop[0, -1, 1] - crop[0, 0, 1]) / 255 * 32 / 31
        flips += width < 0
        areas.append(height * abs(width))
        assert .7 < abs(width) / height < 1.4
    assert 15 <= flips <= 45
    assert .17 < min(areas) < .35 and .75 < max(areas) < 1.04


def test_crop_scale_of_one_is_the_crop_of_the_stored_image():
    image = gradient_image(10, 10)
    crop = augment(image, 3, crop_scale=1.0)
    windows = [image[top:top + 8, left:left + 8] for top in range(3) for left in range(3)]
    assert any((crop == window).all() or (crop == window[:, ::-1]).all() for window in windows)


def test_mean_is_per_channel_if_crops_are_resized():
    images = storage.ArrayImages(np.stack([gradient_image(8, 8)] * 4))
    config = Config(augment=True, crop_scale=.5)
    assert load.build_preprocess(config, images).normalize.mean_image.shape == (3,)


def test_crop_scale_without_augmentation_is_refused():
    with pytest.raises(UserError, match="--crop_scale=0.5 has no effect without --augment"):
        Config(crop_scale=.5)
