import dataclasses
import math

import pytest

from mlnt_tf.config import METHODS, Config, UserError


def message_of(**settings):
    with pytest.raises(UserError) as raised:
        Config(**settings)
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name, value, fix", [
    ("dataset", "mnist", "digits, cifar10"),
    ("method", "magic", METHODS[0]),
    ("noise_rate", 1.5, "at most 1"),
    ("noise_rate", -0.1, "at least 0"),
    ("epochs", 0, "at least 1"),
    ("learning_rate", 0.0, "above 0"),
    ("momentum", 1.0, "below 1"),
    ("tau", 1.0, "below 1"),
    ("tau", math.nan, "finite"),
    ("learning_rate", math.inf, "finite"),
    ("noise", "salt", "matrix:FILE"),
    ("noise", "matrix:nowhere.csv", "no such file"),
    ("output_dir", "", "name a directory"),
])
def test_a_value_outside_its_range_names_flag_value_and_fix(name, value, fix):
    text = message_of(**{name: value})
    assert text.startswith(f"--{name}={value}")
    assert fix in text


def test_neighbors_within_the_batch_need_a_batch_above_them():
    text = message_of(num_neighbors=10, batch_size=8, neighbor_scope="batch")
    assert "--num_neighbors=10" in text and "--batch_size=8" in text
    Config(num_neighbors=10, batch_size=8, neighbor_scope="batch", method="cross_entropy")
    Config(num_neighbors=10, batch_size=8, neighbor_scope="dataset")


def test_ramp_and_decay_scale_with_the_epochs_unless_set():
    paper = Config(epochs=120)
    assert (paper.ramp_epochs, paper.decay_epochs) == (20, 80)
    assert (Config(epochs=12).ramp_epochs, Config(epochs=12).decay_epochs) == (2, 8)
    assert Config(meta_ramp_epochs=5.0).ramp_epochs == 5
    assert Config(meta_ramp_epochs=0.0).ramp_epochs == 0
    assert Config(learning_rate_decay_epochs=0.0).decay_epochs is None


def test_the_baseline_trains_as_long_as_an_iteration_unless_set():
    assert Config(epochs=7).baseline_epochs == 7
    assert Config(epochs=7, pretrain_epochs=3).baseline_epochs == 3


def test_a_config_is_frozen_and_every_field_explains_itself():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1
    for field in dataclasses.fields(Config):
        assert field.metadata["help"].endswith(".")
        assert type(field.default) is field.type
