import io
import subprocess
import sys
import textwrap

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.data.transforms import Normalizer, Preprocess

NAMES = ("cat", "dog", "a bird")


def exported(path, channels):
    network = mlnt_tf.build_network("cnn", width=4, input_shape=(8, 8, channels), num_classes=3, seed=0)
    mean = np.random.default_rng(0).uniform(size=[8, 8, channels]).astype(np.float32)
    preprocess = Preprocess((8, 8, channels), (8, 8, channels), Normalizer(mean))
    mlnt_tf.export_saved_model(network, path, preprocess=preprocess, class_names=NAMES)
    return network, preprocess, tf.saved_model.load(str(path / "1"))


@pytest.fixture(scope="module", params=[1, 3])
def model(request, tmp_path_factory):
    return request.param, tmp_path_factory.mktemp("model"), *exported(tmp_path_factory.mktemp("other"), request.param)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(size=(8, 8), mode="RGB"):
    return PIL.Image.fromarray(np.random.default_rng(1).integers(256, size=[*size[::-1], 3], dtype=np.uint8)).convert(mode)


def serve(loaded, *images):
    return loaded.signatures["serving_default"](tf.constant(images))


def test_png_bytes_give_what_the_network_gives(model):
    channels, _, network, normalize, loaded = model
    image = picture(mode="L" if channels == 1 else "RGB")
    pixels = np.asarray(image).reshape(1, 8, 8, channels)
    expected = tf.nn.softmax(network(normalize(pixels)))
    answer = serve(loaded, encoded(image))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    assert answer["label"][0] == np.argmax(expected)
    assert answer["class_name"][0].numpy().decode() == NAMES[np.argmax(expected)]
    for key, value in loaded.signatures["images"](tf.constant(pixels)).items():
        if key == "probabilities":
            np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (3, 20), (64, 5)])
@pytest.mark.parametrize("kind, mode", [("PNG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P")])
def test_any_size_and_format(model, size, kind, mode):
    answer = serve(model[-1], encoded(picture(size, mode), kind), encoded(picture()))
    assert answer["probabilities"].shape == (2, 3)
    assert answer["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(answer["probabilities"], axis=1), 1, atol=1e-6)


def test_a_photograph_is_turned_resized_cropped_and_normalized_as_in_training(tmp_path):
    from mlnt_tf.data.images.decode import resize
    from mlnt_tf.models.build import normalization

    network = mlnt_tf.build_network("cnn", width=4, input_shape=(8, 8, 3), num_classes=3, seed=0)
    preprocess = Preprocess((12, 12, 3), (8, 8, 3), normalization("resnet50"))
    mlnt_tf.export_saved_model(network, tmp_path, preprocess=preprocess, class_names=NAMES)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # taken on its side
    photograph = encoded(picture((30, 20)), "JPEG", quality=100, exif=exif)
    seen = tf.io.decode_jpeg(photograph)[::-1]  # a quarter turn clockwise
    stored = resize(tf.transpose(seen, [1, 0, 2]), (12, 12))[None]
    blue_first = tf.cast(stored, tf.float32)[:, 2:-2, 2:-2, ::-1] - [103.939, 116.779, 123.68]
    expected = tf.nn.softmax(network(blue_first))
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_allclose(serve(loaded, photograph)["probabilities"], expected, atol=.02)
    np.testing.assert_allclose(loaded.signatures["images"](stored)["probabilities"], expected, atol=1e-5)


def test_arrays_of_any_size(model):
    channels, loaded = model[0], model[-1]
    assert loaded.signatures["images"](tf.zeros([2, 30, 11, channels], tf.uint8))["probabilities"].shape == (2, 3)


def test_an_empty_batch_gives_empty_answers(model):
    channels, loaded = model[0], model[-1]
    assert loaded.signatures["serving_default"](tf.zeros([0], tf.string))["probabilities"].shape == (0, 3)
    assert loaded.signatures["images"](tf.zeros([0, 8, 8, channels], tf.uint8))["label"].shape == (0,)


def test_as_many_names_as_logits(model, tmp_path):
    with pytest.raises(ValueError, match="3 logits"):
        mlnt_tf.export_saved_model(model[2], tmp_path, preprocess=model[3], class_names=["cat"])


def test_bytes_that_are_no_image_are_refused(model):
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(model[-1], b"no image")


def test_a_second_export_replaces_the_first(tmp_path):
    exported(tmp_path, 1)
    exported(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_it_loads_where_neither_keras_nor_this_package_is(tmp_path):
    exported(tmp_path, 1)
    code = textwrap.dedent(f"""
        import sys
        sys.modules["keras"] = sys.modules["mlnt_tf"] = sys.modules["tf_keras"] = None
        import tensorflow as tf
        loaded = tf.saved_model.load({str(tmp_path / "1")!r})
        print(loaded.signatures["images"](tf.zeros([2, 8, 8, 1], tf.uint8))["class_name"].numpy())
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert any(name in result.stdout for name in NAMES)
