"""The exported SavedModel gives the network's predictions on images of any size and format."""

import io
import subprocess
import sys
import textwrap

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.data.transforms import Normalizer, Preprocess

NAMES = ("cat", "dog", "a bird")


def build_cnn(channels):
    return mlnt_tf.build_network("cnn", width=4, input_shape=(8, 8, channels), num_classes=3,
                                 seed=0)


def export(path, channels):
    """Exports a network to `path`: (network, preprocess, loaded SavedModel)."""
    network = build_cnn(channels)
    mean = np.random.default_rng(0).uniform(size=[8, 8, channels]).astype(np.float32)
    preprocess = Preprocess((8, 8, channels), (8, 8, channels), Normalizer(mean))
    mlnt_tf.export_saved_model(network, path, preprocess=preprocess, class_names=NAMES)
    return network, preprocess, tf.saved_model.load(str(path / "1"))


@pytest.fixture(scope="module", params=[1, 3])
def channels(request):
    return request.param


@pytest.fixture(scope="module")
def model(channels, tmp_path_factory):
    return export(tmp_path_factory.mktemp("model"), channels)


@pytest.fixture(scope="module")
def loaded(model):
    return model[2]


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def random_image(size=(8, 8), mode="RGB"):
    """A PIL image of (width, height)."""
    pixels = np.random.default_rng(1).integers(256, size=[*size[::-1], 3], dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def serve(loaded, *images):
    """The outputs for encoded images."""
    return loaded.signatures["serving_default"](tf.constant(images, tf.string))


def test_both_signatures_give_the_predictions_of_the_network(model, channels):
    network, preprocess, loaded = model
    image = random_image(mode="L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(1, 8, 8, channels)
    expected = tf.nn.softmax(network(preprocess(pixels)))
    for outputs in (serve(loaded, encode(image)),
                    loaded.signatures["images"](tf.constant(pixels))):
        np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
        assert outputs["label"][0] == np.argmax(expected)
        assert outputs["class_name"][0].numpy().decode() == NAMES[np.argmax(expected)]


@pytest.mark.parametrize("size", [(8, 8), (3, 20), (64, 5)])
@pytest.mark.parametrize("kind, mode", [
    ("PNG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P")])
def test_encoded_images_can_have_any_size_and_format(loaded, size, kind, mode):
    outputs = serve(loaded, encode(random_image(size, mode), kind), encode(random_image()))
    assert outputs["probabilities"].shape == (2, 3)
    assert outputs["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(outputs["probabilities"], axis=1), 1, atol=1e-6)


def test_photograph_is_rotated_resized_cropped_and_normalized_as_in_training(tmp_path):
    from mlnt_tf.data.images.decode import resize
    from mlnt_tf.models.build import normalization

    network = build_cnn(3)
    preprocess = Preprocess((12, 12, 3), (8, 8, 3), normalization("resnet50"))
    mlnt_tf.export_saved_model(network, tmp_path, preprocess=preprocess, class_names=NAMES)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # The orientation: rotated by 90 degrees.
    photograph = encode(random_image((30, 20)), "JPEG", quality=100, exif=exif)
    upright = tf.transpose(tf.io.decode_jpeg(photograph)[::-1], [1, 0, 2])
    stored = resize(upright, (12, 12))[None]
    blue_first = tf.cast(stored, tf.float32)[:, 2:-2, 2:-2, ::-1] - [103.939, 116.779, 123.68]
    expected = tf.nn.softmax(network(blue_first))
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    from_file = serve(loaded, photograph)["probabilities"]
    from_pixels = loaded.signatures["images"](stored)["probabilities"]
    np.testing.assert_allclose(from_file, expected, atol=.02)
    np.testing.assert_allclose(from_pixels, expected, atol=1e-5)


def test_pixels_can_have_any_size(loaded, channels):
    images = tf.zeros([2, 30, 11, channels], tf.uint8)
    assert loaded.signatures["images"](images)["probabilities"].shape == (2, 3)


def test_empty_batch_gives_empty_outputs(loaded, channels):
    images = tf.zeros([0, 8, 8, channels], tf.uint8)
    for outputs in (serve(loaded), loaded.signatures["images"](images)):
        assert outputs["probabilities"].shape == (0, 3)
        assert outputs["label"].shape == (0,)


def test_number_of_class_names_must_be_that_of_the_logits(model, tmp_path):
    network, preprocess, _ = model
    with pytest.raises(ValueError, match="3 logits"):
        mlnt_tf.export_saved_model(network, tmp_path, preprocess=preprocess, class_names=["cat"])


def test_an_image_that_cannot_be_decoded_is_marked_and_does_not_affect_others(loaded):
    image = encode(random_image())
    alone = serve(loaded, image)
    outputs = serve(loaded, b"no image", image, image[:60], b"")
    assert outputs["valid"].numpy().tolist() == [False, True, False, False]
    assert outputs["class_name"].numpy().tolist() == [b"", alone["class_name"].numpy()[0], b"", b""]
    assert outputs["label"].numpy().tolist() == [-1, alone["label"].numpy()[0], -1, -1]
    np.testing.assert_allclose(outputs["probabilities"][1], alone["probabilities"][0], atol=1e-6)
    np.testing.assert_array_equal(tf.gather(outputs["probabilities"], [0, 2, 3]), 0)
    assert not serve(loaded, b"no image")["valid"].numpy().any()


def test_the_encoded_image_is_named_as_a_binary_value_of_tensorflow_serving(loaded):
    _, inputs = loaded.signatures["serving_default"].structured_input_signature
    assert list(inputs) == ["image_bytes"]


def test_network_images_take_the_size_and_normalization_of_the_network(model, channels):
    network, preprocess, loaded = model
    pixels = np.random.default_rng(2).uniform(0, 255, size=[4, 8, 8, channels]).astype(np.float32)
    outputs = loaded.signatures["network_images"](tf.constant(pixels))
    expected = tf.nn.softmax(network(preprocess(pixels)))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs["label"], tf.argmax(expected, axis=1))


@pytest.mark.slow
def test_network_images_convert_to_tensorflow_lite_from_mixed_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        _, _, loaded = export(tmp_path, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "1"), signature_keys=["network_images"])
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    pixels = np.random.default_rng(2).uniform(0, 255, size=[1, 8, 8, 3]).astype(np.float32)
    answer = interpreter.get_signature_runner("network_images")(images=pixels)
    expected = loaded.signatures["network_images"](tf.constant(pixels))
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-5)


def test_second_export_replaces_the_first(tmp_path):
    export(tmp_path, 1)
    variables = tmp_path / "1" / "variables" / "variables.index"
    variables.unlink()
    export(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert variables.exists()


def test_export_loads_without_keras_and_without_this_package(tmp_path):
    export(tmp_path, 1)
    code = textwrap.dedent(f"""
        import sys
        sys.modules["keras"] = sys.modules["mlnt_tf"] = sys.modules["tf_keras"] = None
        import tensorflow as tf
        loaded = tf.saved_model.load({str(tmp_path / "1")!r})
        images = tf.zeros([2, 8, 8, 1], tf.uint8)
        print(loaded.signatures["images"](images)["class_name"].numpy())
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert any(name in result.stdout for name in NAMES)
