import keras
import pytest

from mlnt_tf.training import schedules
from mlnt_tf.training.optimizers import CoupledSGD


def after(optimizer, start, gradients):
    weight = keras.Variable(start, dtype="float32")
    optimizer.build([weight])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
    return float(weight)


def test_weight_decay_is_coupled():
    optimizer = CoupledSGD(.1, momentum=.9, coupled_decay=1e-4)
    assert after(optimizer, 2.0, [.5] * 3) == pytest.approx(1.71939020, abs=2e-7)


def test_the_rate_stays_outside_the_velocity():
    rates = schedules.StepDecay(.2, 2)  # .2, .2, .02
    assert after(CoupledSGD(rates, momentum=.9), 0.0, [1.0] * 3) == pytest.approx(-.6342, abs=1e-6)


def test_without_momentum_it_is_gradient_descent():
    assert after(CoupledSGD(.1), 1.0, [2.0]) == pytest.approx(.8)


def test_config_comes_back():
    optimizer = CoupledSGD(.1, momentum=.9, coupled_decay=1e-3)
    again = CoupledSGD.from_config(optimizer.get_config())
    assert (again.momentum, again.coupled_decay) == (.9, 1e-3)
