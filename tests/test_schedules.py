import pytest

from mlnt_tf.training import schedules


@pytest.mark.parametrize("step, expected", [(0, .002695), (10, .114602), (20, .4), (500, .4)])
def test_exponential_ramp(step, expected):
    ramp = schedules.Ramp(.4, 20, shape="exp")
    assert float(ramp(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("step, expected", [(0, .1), (10, .3), (20, .5), (21, .5)])
def test_linear_ramp(step, expected):
    assert float(schedules.Ramp(.5, 20, start=.1)(step)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("steps, shape", [(20, "none"), (0, "exp")])
def test_no_ramp_is_constant(steps, shape):
    assert float(schedules.Ramp(.4, steps, shape=shape)(0)) == pytest.approx(.4)


def test_ramp_refuses_an_unknown_shape():
    with pytest.raises(ValueError, match="Received: shape='cosine'"):
        schedules.Ramp(.4, 20, shape="cosine")


def test_step_decay_falls_at_its_boundary():
    rate = schedules.StepDecay(.2, 80)
    assert float(rate(79)) == pytest.approx(.2)
    assert float(rate(80)) == pytest.approx(.02)


def test_step_decay_without_boundary_is_constant():
    assert float(schedules.StepDecay(.2, None)(10**6)) == pytest.approx(.2)


def test_step_decay_of_a_ramp():
    rate = schedules.StepDecay(schedules.Ramp(.4, 20), 30)
    assert float(rate(10)) == pytest.approx(.2)
    assert float(rate(30)) == pytest.approx(.04)


def test_value_at_takes_a_number_or_a_schedule():
    assert float(schedules.value_at(.3, 7)) == pytest.approx(.3)
    assert float(schedules.value_at(schedules.Ramp(.4, 8), 4)) == pytest.approx(.2)
