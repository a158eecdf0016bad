import dataclasses
import math

import pytest

from mlnt_tf.config import Config, UserError


@pytest.mark.parametrize("name, value, message", [
    ("dataset", "mnist", "--dataset=mnist is not known: choose one of digits, cifar10"),
    ("model", "vgg", "--model=vgg is not known.*preact_resnet32"),
    ("method", "dividemix", "--method=dividemix is not known: choose one of mlnt, cross_entropy"),
    ("noise", "pink", "--noise=pink is not known.*matrix:FILE"),
    ("noise", "matrix:nowhere.csv", "no such file"),
    ("noise_rate", 1.5, "--noise_rate=1.5 is too large: it must be at most 1"),
    ("noise_rate", -0.1, "--noise_rate=-0.1 is too small: it must be at least 0"),
    ("noise_rate", math.nan, "--noise_rate=nan"),
    ("tau", 1.0, "--tau=1.0 is too large: it must be below 1"),
    ("learning_rate", 0.0, "--learning_rate=0.0 is too small: it must be above 0"),
    ("learning_rate", math.inf, "--learning_rate=inf"),
    ("momentum", 1.0, "--momentum"), ("ema_decay", 1.0, "--ema_decay"), ("transfer_ratio", 1.1, "--transfer_ratio"),
    ("iterations", 0, "--iterations"), ("num_synthetic", -1, "--num_synthetic"), ("batch_size", 0, "--batch_size"),
    ("validation_fraction", 1.0, "--validation_fraction"), ("meta_order", "third", "--meta_order=third.*first, full"),
    ("seed", 2**31, "--seed"),
])
def test_a_bad_value_is_told_in_one_line(name, value, message):
    with pytest.raises(UserError, match=message) as caught:
        Config(**{name: value})
    assert "\n" not in str(caught.value)


def test_more_neighbours_than_the_batch_has():
    with pytest.raises(UserError, match="--num_neighbors=10 needs a batch above 10, got --batch_size=8"):
        Config(batch_size=8, neighbor_scope="batch")
    Config(batch_size=8, neighbor_scope="dataset")


def test_lengths_follow_the_epochs_unless_set():
    paper = Config(epochs=120)
    assert (paper.ramp_epochs, paper.decay_epochs, paper.baseline_epochs) == (20, 80, 120)
    set_by_hand = Config(epochs=120, meta_ramp_epochs=5, learning_rate_decay_epochs=0, pretrain_epochs=7)
    assert (set_by_hand.ramp_epochs, set_by_hand.decay_epochs, set_by_hand.baseline_epochs) == (5, None, 7)


def test_every_flag_has_a_help():
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(Config))


@pytest.mark.parametrize("dataset, noise", [("digits", "symmetric"), ("cifar10", "symmetric"), ("folder", "none"),
                                            ("csv", "none"), ("clothing1m", "none"), ("tfds:mnist", "none"),
                                            ("module:function", "none")])
def test_data_of_ones_own_get_no_noise_unless_asked(dataset, noise):
    assert Config(dataset=dataset).noise == noise
    assert Config(dataset=dataset, noise="asymmetric").noise == "asymmetric"


def test_labels_that_would_never_be_renewed_are_refused():
    with pytest.raises(UserError, match="--joint_start_epoch=70 is beyond the 5 epochs"):
        Config(method="joint_optimization", joint_epochs=5, joint_start_epoch=70)
