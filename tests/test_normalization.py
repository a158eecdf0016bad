"""--normalization: every choice computes its formula, in training and in the SavedModel."""

import dataclasses
import io

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import Config, UserError
from mlnt_tf.data import load
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Source, Split

COUNT, SIZE = 24, 8
PIXELS = np.random.default_rng(0).integers(256, size=[COUNT, SIZE, SIZE, 3], dtype=np.uint8)
FLOATS = PIXELS.astype(np.float64)
CONFIG = Config(noise="none", model="cnn", width=4, batch_size=4, num_neighbors=2)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
EXPECTED = {
    "imagenet": (FLOATS / 255 - MEAN) / STD,
    "minus_one_to_one": FLOATS / 127.5 - 1,
    "mean_image": FLOATS / 255 - FLOATS.mean(axis=0) / 255,
    "none": FLOATS,
}


def preprocess(pixels=PIXELS, **settings):
    return load.build_preprocess(dataclasses.replace(CONFIG, **settings), ArrayImages(pixels))


def examples(config):
    count = np.arange(COUNT)
    split = Split(count, (count % 2).astype(np.int32), ArrayImages(PIXELS), count.astype(str))
    return load.build_examples(Source(("even", "odd"), split, split, validation=split), config)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_choice_is_what_it_says(name):
    normalized = preprocess(normalization=name)(PIXELS)
    assert normalized.dtype == tf.float32
    np.testing.assert_allclose(normalized, EXPECTED[name], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("model, expected", [
    ("cnn", EXPECTED["mean_image"]),
    ("efficientnet_lite0", (FLOATS - 127) / 128),
    ("keras:MobileNetV2", EXPECTED["minus_one_to_one"]),
    ("keras:DenseNet121", EXPECTED["imagenet"])])
def test_auto_is_what_the_published_weights_of_the_network_expect(model, expected):
    np.testing.assert_allclose(preprocess(model=model)(PIXELS), expected, rtol=1e-5, atol=2e-6)


def test_a_given_normalization_replaces_that_of_the_network():
    given = preprocess(model="keras:MobileNetV2", normalization="none")
    np.testing.assert_array_equal(given(PIXELS), PIXELS)


def test_replacing_that_of_pretrained_weights_costs_a_warning(caplog):
    preprocess(model="efficientnet_lite0", pretrained_weights="imagenet")
    assert not caplog.text
    preprocess(model="efficientnet_lite0", pretrained_weights="imagenet", normalization="none")
    assert "--normalization=none replaces" in caplog.text


def test_with_a_crop_the_mean_is_by_channel():
    cropped = preprocess(normalization="mean_image", crop_size=6)(PIXELS)
    expected = FLOATS[:, 1:7, 1:7] / 255 - FLOATS.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(cropped, expected, atol=1e-6)


def test_gray_images_need_no_color_normalization():
    gray = PIXELS[..., :1]
    with pytest.raises(UserError, match="--normalization=imagenet needs images with 3 channels"):
        preprocess(gray, normalization="imagenet")
    assert preprocess(gray, normalization="minus_one_to_one")(gray).shape == gray.shape


@pytest.mark.parametrize("normalization", [*EXPECTED, "auto"])
def test_training_and_saved_model_see_the_same_pixels(tmp_path, normalization):
    loaded = examples(dataclasses.replace(CONFIG, normalization=normalization,
                                          model="efficientnet_lite0"))
    network = loaded.new_network(CONFIG)  # a small one
    if normalization == "none":  # Larger inputs would saturate the softmax and hide differences.
        head = network.layers[-1]
        head.set_weights([weight / 255 for weight in head.get_weights()])
    batch = next(iter(loaded.batches(loaded.validation, CONFIG)))
    expected = keras.ops.softmax(network(batch["image"]))
    mlnt_tf.export_saved_model(network, tmp_path, preprocess=loaded.preprocess,
                               class_names=loaded.class_names)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    buffers = [io.BytesIO() for _ in batch["image"]]
    for pixels, buffer in zip(PIXELS, buffers):
        PIL.Image.fromarray(pixels).save(buffer, "PNG")
    answer = served(tf.constant([buffer.getvalue() for buffer in buffers]))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-2, "the network must depend on its input"
