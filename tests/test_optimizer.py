import keras
import pytest

from mlnt_tf.training import schedules
from mlnt_tf.training.optimizers import CoupledSGD, HeadRateAdamW


def weight_after(optimizer, start, gradients):
    """The value of a scalar weight after a step along each gradient."""
    weight = keras.Variable(start, dtype="float32")
    optimizer.build([weight])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
    return float(weight)


def test_weight_decay_is_coupled():
    optimizer = CoupledSGD(.1, momentum=.9, coupled_decay=1e-4)
    assert weight_after(optimizer, 2.0, [.5] * 3) == pytest.approx(1.71939020, abs=2e-7)


def test_learning_rate_is_not_part_of_the_velocity():
    learning_rate = schedules.StepDecay(.2, 2)  # 0.2, 0.2, 0.02
    optimizer = CoupledSGD(learning_rate, momentum=.9)
    assert weight_after(optimizer, 0.0, [1.0] * 3) == pytest.approx(-.6342, abs=1e-6)


def test_without_momentum_it_is_gradient_descent():
    assert weight_after(CoupledSGD(.1), 1.0, [2.0]) == pytest.approx(.8)


def test_config_restores_the_optimizer():
    optimizer = CoupledSGD(.1, momentum=.9, coupled_decay=1e-3)
    restored = CoupledSGD.from_config(optimizer.get_config())
    assert restored.get_config() == optimizer.get_config()
    assert (restored.momentum, restored.coupled_decay) == (.9, 1e-3)


def test_nesterov_moves_along_the_gradient_and_the_new_velocity():
    # v: 1, 1.9. Steps: 1 + .9 * 1 = 1.9 and 1 + .9 * 1.9 = 2.71, at learning rate 0.1.
    assert weight_after(CoupledSGD(.1, momentum=.9, nesterov=True), 0.0, [1.0] * 2) == \
        pytest.approx(-.461)


def body_and_head(optimizer_of, gradients):
    """Trains two equal weights, of which the second is the head. Returns both."""
    weights = [keras.Variable(1.0, dtype="float32") for _ in range(2)]
    optimizer = optimizer_of([weights[1]])
    optimizer.build(weights)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")] * 2, weights)
    return [float(weight) for weight in weights]


def test_head_has_its_own_learning_rate():
    body, head = body_and_head(
        lambda head: CoupledSGD(.1, coupled_decay=.5, head_variables=head, head_factor=3.0), [2.0])
    assert (body, head) == pytest.approx((1 - .1 * 2.5, 1 - .3 * 2.5))


def test_adamw_with_a_head_equals_two_optimizers_of_keras():
    gradients = [.5, -.2, 1.0]
    body, head = body_and_head(
        lambda head: HeadRateAdamW(.01, decoupled_decay=.1, head_variables=head, head_factor=4.0),
        gradients)
    for weight, rate in ((body, .01), (head, .04)):
        adamw = keras.optimizers.AdamW(rate, weight_decay=.1)
        assert weight == pytest.approx(weight_after(adamw, 1.0, gradients), rel=1e-6)


def test_first_step_of_adamw_is_the_learning_rate_and_the_decay():
    adamw = keras.optimizers.AdamW(.01, weight_decay=.1)
    assert weight_after(adamw, 1.0, [.5]) == pytest.approx(1 - .01 * .1 - .01, abs=1e-6)
