import keras
import pytest

from mlnt_tf.training import schedules
from mlnt_tf.training.optimizers import CoupledSGD


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
