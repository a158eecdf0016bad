"""The schedules that the flags describe, against values in closed form."""

import keras
import numpy as np
import pytest

from mlnt_tf.config import Config, UserError
from mlnt_tf.training import schedules
from mlnt_tf.training.compile import follow_learning_rate, learning_rate_schedule

STEPS = 10  # per epoch


def rates(steps, *, epochs=30, **settings):
    """Returns the learning rate at each of `steps` of a stage as long as --epochs."""
    config = Config(**{"epochs": epochs, "learning_rate": .2, **settings})
    schedule = learning_rate_schedule(config, STEPS, epochs)
    return [float(schedule(step)) for step in steps]


def test_step_schedule_falls_at_every_listed_epoch():
    expected = [.2, .2, .02, .02, .002, .002]
    assert rates([0, 49, 50, 99, 100, 299], learning_rate_decay_epochs="5,10") == pytest.approx(
        expected)


def test_step_schedule_falls_by_the_given_factor():
    assert rates([49, 50], learning_rate_decay_epochs="5", learning_rate_decay_factor=4.0) == \
        pytest.approx([.2, .05])


def test_step_schedule_falls_after_two_thirds_by_default():
    assert rates([199, 200]) == pytest.approx([.2, .02])


def test_cosine_is_half_way_in_the_middle():
    steps = np.arange(0, 300, 50)
    expected = .02 + .18 * (1 + np.cos(np.pi * steps / 300)) / 2
    assert rates(steps, lr_schedule="cosine", lr_floor=.02) == pytest.approx(expected, rel=1e-5)
    assert rates([300], lr_schedule="cosine", lr_floor=.02) == pytest.approx([.02])


def test_cosine_begins_after_its_warm_up():
    settings = dict(lr_schedule="cosine", warmup_epochs=6.0)
    expected = [0, .1, .2, .2 * (1 + np.cos(np.pi / 2)) / 2, 0]
    assert rates([0, 30, 60, 180, 300], **settings) == pytest.approx(expected, abs=1e-6)


def test_cosine_restarts_repeat_with_their_period():
    settings = dict(lr_schedule="cosine_restarts", lr_restart_epochs=10.0, lr_floor=.001)
    steps = np.arange(300)
    expected = .001 + .199 * (1 + np.cos(np.pi * (steps % 100) / 100)) / 2
    np.testing.assert_allclose(rates(steps[::7], **settings), expected[::7], rtol=1e-3)
    np.testing.assert_allclose(rates([0, 100, 200], **settings), .2, rtol=1e-6)


def test_first_cycle_of_restarts_begins_after_the_warm_up():
    settings = dict(lr_schedule="cosine_restarts", lr_restart_epochs=10.0, warmup_epochs=1.0)
    assert rates([0, 5, 10, 60, 110], **settings) == pytest.approx([0, .1, .2, .1, .2], abs=1e-6)


def test_triangular_rises_during_a_quarter_and_falls_to_the_floor():
    settings = dict(lr_schedule="triangular", epochs=40)
    assert rates([0, 50, 100, 250, 400], **settings) == pytest.approx([0, .1, .2, .1, 0], abs=1e-6)
    assert rates([400], lr_floor=.05, **settings) == pytest.approx([.05])
    assert rates([80], warmup_epochs=16.0, **settings) == pytest.approx([.1])


def test_step_schedule_counts_its_epochs_from_the_first_one_with_a_warm_up_too():
    settings = dict(warmup_epochs=2.0, learning_rate_decay_epochs="5")
    assert rates([0, 10, 20, 49, 50], **settings) == pytest.approx([0, .1, .2, .2, .02], abs=1e-7)


@pytest.mark.parametrize("settings, step, expected", [
    (dict(learning_rate_decay_epochs="10"), 50, .02),
    (dict(lr_schedule="cosine"), 75, .1),
    (dict(lr_schedule="cosine_restarts", lr_restart_epochs=10.0), 50, .2),
    (dict(lr_schedule="triangular", warmup_epochs=10.0), 50, .2)])
def test_lengths_scale_with_the_epochs_of_a_stage(settings, step, expected):
    config = Config(epochs=30, **settings)
    schedule = learning_rate_schedule(config, STEPS, 15)
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", [
    dict(learning_rate_decay_epochs="5,10"), dict(lr_schedule="cosine"),
    dict(warmup_epochs=3.0, learning_rate_decay_epochs="10")])
def test_following_rate_is_multiplied_by_the_relative_learning_rate(settings):
    config = Config(epochs=30, **settings)
    ramp = schedules.Ramp(1.6, 40)
    learning_rate = learning_rate_schedule(config, STEPS, 30)
    following = follow_learning_rate(ramp, config, STEPS, 30)
    for step in (0, 20, 75, 130, 299):
        expected = float(ramp(step)) * float(learning_rate(step)) / .2
        assert float(following(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("settings", [
    dict(warmup_epochs=3.0), dict(lr_schedule="triangular"),
    dict(lr_schedule="cosine_restarts", lr_restart_epochs=3.0)])
def test_schedule_is_saved_and_loaded(settings):
    schedule = learning_rate_schedule(Config(**settings), STEPS, 30)
    stored = keras.saving.serialize_keras_object(schedule)
    restored = keras.saving.deserialize_keras_object(stored)
    for step in (0, 20, 130):
        assert float(restored(step)) == float(schedule(step))


def test_equal_lists_of_decay_epochs_are_the_same_setting():
    texts = {Config(learning_rate_decay_epochs=value).learning_rate_decay_epochs
             for value in ("40,80", "40.0, 80", "40.0,80.0")}
    assert texts == {"40.0,80.0"}
    assert Config(learning_rate_decay_epochs=-1.0) == Config()


@pytest.mark.parametrize("schedule", ["cosine", "triangular", "step"])
def test_warm_up_that_rounds_to_all_steps_leaves_one_for_the_schedule(schedule):
    config = Config(epochs=1, lr_schedule=schedule, warmup_epochs=.9,
                    learning_rate_decay_epochs="-1" if schedule != "step" else "0")
    rates = learning_rate_schedule(config, 2, 1)
    assert float(rates(1)) == pytest.approx(.2)


@pytest.mark.parametrize("settings, message", [
    (dict(learning_rate_decay_epochs="80,40"), "list of rising positive numbers"),
    (dict(learning_rate_decay_epochs="0,40"), "list of rising positive numbers"),
    (dict(learning_rate_decay_epochs="40;80"), "is not a list of numbers"),
    (dict(lr_schedule="cosine", learning_rate_decay_epochs="9"),
     "--learning_rate_decay_epochs=9.0 has no effect with --lr_schedule=cosine"),
    (dict(lr_floor=.1), "--lr_floor=0.1 has no effect with --lr_schedule=step"),
    (dict(lr_schedule="cosine", lr_floor=.3), "must be below --learning_rate"),
    (dict(lr_schedule="cosine_restarts"), "Set --lr_restart_epochs"),
    (dict(lr_restart_epochs=3.0), "--lr_restart_epochs=3.0 has no effect"),
    (dict(warmup_epochs=30.0), "--warmup_epochs=30.0 must be less than --epochs=30"),
    (dict(warmup_epochs=8.0, learning_rate_decay_epochs="8"), "less than the first decay"),
    (dict(nesterov=True, optimizer="adamw"), "--nesterov has no effect with --optimizer=adamw"),
    (dict(nesterov=True, momentum=0.0), "--nesterov needs a momentum"),
    (dict(optimizer="adamw", momentum=.8), "--momentum=0.8 has no effect"),
    (dict(head_learning_rate=.1, freeze="body"), "has no effect with --freeze=body"),
    (dict(label_smoothing=.1, method="gce"), "--label_smoothing=0.1 .* --method=gce")])
def test_contradiction_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Config(**settings)
    assert "\n" not in str(caught.value)
