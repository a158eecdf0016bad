"""One training step of MLNT (algorithm 1 of the paper) and its settings."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.meta import objective
from mlnt_tf.training import schedules
from mlnt_tf.training.optimizers import CoupledSGD

import tiny

RATES = dict(learning_rate=.2, meta_rate=.4, momentum=.9, weight_decay=1e-4)


def compiled(network, *, rates=RATES, jit_compile=False, run_eagerly=False, **kwargs):
    """A compiled model. `kwargs` are arguments of MLNT."""
    model = mlnt_tf.MLNT(network, **{"num_synthetic": 2, "inner_rate": .2, **kwargs})
    model.compile(**rates, jit_compile=jit_compile, run_eagerly=run_eagerly)
    return model


def fit_one_step(model, batch=None, **teacher):
    """Trains one step with `EmaTeacher(**teacher)`."""
    dataset = tf.data.Dataset.from_tensors(batch or tiny.batch())
    return model.fit(dataset, verbose=0,
                     callbacks=[mlnt_tf.EmaTeacher(**{"decay": .9, **teacher})])


def scalar_step(monkeypatch, **kwargs):
    """One step of a network with a single weight theta, whose logits are (0, theta).

    Initially theta is 0.5 and the teacher's weight 1. The label is 1, the synthetic labels are 1
    and 0.

    Returns:
      (theta, weight of the teacher) after the step.
    """
    model = compiled(tiny.one_weight(.5), run_eagerly=True,
                     rates=dict(learning_rate=.2, meta_rate=.4, momentum=0.0), **kwargs)
    model.configure_teacher(decay=.99, decay_start=.99, ramp_steps=0, statistics="own")
    model.teacher.layers[-1].theta.assign(1.0)
    labels = tf.constant([1, 0])
    monkeypatch.setattr("mlnt_tf.meta.synthetic.transfer_labels",
                        lambda *_, m, **__: labels[m][None])
    batch = {"image": tf.zeros([1, 1]), "label": tf.constant([1]),
             "neighbor_labels": tf.constant([[0]])}
    model.train_step(batch)
    return float(model.student.layers[-1].theta), float(model.teacher.layers[-1].theta)


@pytest.mark.parametrize("kwargs, expected", [
    (dict(), .619224), (dict(update_mode="joint"), .621367),
    (dict(meta_order="full"), .617169)])
def test_one_step_of_algorithm_1_by_hand(monkeypatch, kwargs, expected):
    theta, _ = scalar_step(monkeypatch, **kwargs)
    assert theta == pytest.approx(expected, abs=1e-6)


def test_joint_updates_use_the_weights_before_the_step():
    """Both updates are functions of the same weights, so without momentum they add up."""
    def updates(**kwargs):
        rates = dict(learning_rate=.2, meta_rate=.4, momentum=0.0, weight_decay=.5) | kwargs
        model = compiled(tiny.dense(), rates=rates, update_mode="joint")
        before = tiny.weights(model.student)
        model.train_step(tiny.batch())
        return [after - start for after, start in zip(tiny.weights(model.student), before)]

    for both, meta, classification in zip(updates(), updates(learning_rate=0.0),
                                          updates(meta_rate=0.0)):
        np.testing.assert_allclose(both, meta + classification, atol=1e-6)


def test_teacher_is_updated_after_the_step(monkeypatch):
    _, teacher = scalar_step(monkeypatch)
    assert teacher == pytest.approx(.996192, abs=1e-6)


def test_without_synthetic_labels_it_equals_cross_entropy_bit_for_bit():
    """Eager, because a graph that also measures the accuracy is fused in another way."""
    model = compiled(tiny.dense(), num_synthetic=0, run_eagerly=True)
    model.fit(tiny.dataset(6), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    network = tiny.dense()
    optimizer = CoupledSGD(.2, momentum=.9, coupled_decay=1e-4)
    optimizer.build(network.trainable_variables)
    for batch in tiny.dataset(6):
        with tf.GradientTape() as tape:
            logits = network(batch["image"], training=True)
            loss = losses.mean_loss(losses.cross_entropy(batch["label"], logits))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
    tiny.assert_equal_weights(model.student, network)


def test_without_synthetic_labels_its_graph_equals_that_of_cross_entropy():
    model = compiled(tiny.dense(), num_synthetic=0)
    plain = mlnt_tf.CrossEntropy(tiny.dense())
    plain.compile(learning_rate=.2, momentum=.9, weight_decay=1e-4)
    for trained in (model, plain):
        trained.fit(tiny.dataset(6), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    tiny.assert_equal_weights(model.student, plain.student)
    tiny.assert_equal_weights(model.teacher, plain.teacher)


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("mode", [dict(jit_compile=True), dict(run_eagerly=True)])
def test_xla_and_eager_mode_take_the_step_of_the_graph(order, mode):
    expected = compiled(tiny.dense(), meta_order=order)
    model = compiled(tiny.dense(), meta_order=order, **mode)
    fit_one_step(expected)
    fit_one_step(model)
    tiny.assert_equal_weights(model.student, expected.student, atol=1e-6)
    tiny.assert_equal_weights(model.teacher, expected.teacher, atol=1e-6)


def network_with_batch_norm():
    return tiny.dense(layer=mlnt_tf.FusedBatchNormalization(momentum=.9, name="norm"))


def mean_of_norm_inputs(network):
    """The mean that batch normalization computes of `tiny.batch()`: [5]."""
    return network.layers[0](tiny.batch()["image"]).numpy().mean(axis=0)


def moving_mean(network):
    return network.get_layer("norm").moving_mean.numpy()


def test_only_the_classification_forward_pass_updates_moving_statistics():
    network = network_with_batch_norm()
    expected = .1 * mean_of_norm_inputs(network)
    model = compiled(network, num_synthetic=4, rates=dict(learning_rate=.2, meta_rate=0.0))
    model.fit(tiny.dataset(1), verbose=0)
    np.testing.assert_allclose(moving_mean(network), expected, atol=1e-6)


def test_own_statistics_are_those_of_the_teacher_before_the_step():
    network = network_with_batch_norm()
    expected = .1 * mean_of_norm_inputs(network)
    model = compiled(network)
    fit_one_step(model)
    np.testing.assert_allclose(moving_mean(model.teacher), expected, atol=1e-6)


def test_own_statistics_of_cross_entropy_are_those_of_the_teacher_before_its_update():
    network = network_with_batch_norm()
    expected = .1 * mean_of_norm_inputs(network)
    model = compiled(network, num_synthetic=0)
    fit_one_step(model)
    np.testing.assert_allclose(moving_mean(model.teacher), expected, atol=1e-6)


def test_averaged_statistics_are_the_moving_average_of_the_students():
    model = compiled(network_with_batch_norm())
    fit_one_step(model, decay=.8, statistics="averaged")
    for name, start in (("moving_mean", 0.0), ("moving_variance", 1.0)):
        student = getattr(model.student.get_layer("norm"), name).numpy()
        teacher = getattr(model.teacher.get_layer("norm"), name).numpy()
        np.testing.assert_allclose(teacher, .8 * start + .2 * student, atol=1e-6)


def test_classification_update_uses_the_classification_stream():
    classification = tiny.batch(seed=1)
    model = compiled(tiny.dense(), rates=dict(learning_rate=.2, meta_rate=0.0))
    model.train_step({"meta": tiny.batch(seed=0), "classification": classification})
    plain = compiled(tiny.dense(), num_synthetic=0, rates=dict(learning_rate=.2))
    plain.train_step(classification)
    tiny.assert_equal_weights(model.student, plain.student, atol=1e-7)


def test_meta_update_uses_the_meta_stream():
    rates = dict(learning_rate=0.0, meta_rate=.4)
    model = compiled(tiny.dense(), rates=rates)
    model.train_step({"meta": tiny.batch(seed=0), "classification": tiny.batch(seed=1)})
    expected = compiled(tiny.dense(), rates=rates)
    expected.train_step(tiny.batch(seed=0))
    tiny.assert_equal_weights(model.student, expected.student, atol=1e-7)
    assert abs(tiny.weights(model.student)[0] - tiny.weights(tiny.dense())[0]).max() > 1e-4


def test_mentor_is_merged_into_the_target_and_not_trained():
    mentor = tiny.dense(seed=9)
    images = tiny.batch()["image"]
    before = [weight.copy() for weight in mentor.get_weights()]
    model = compiled(tiny.dense(), mentor=mentor, teacher_weight=schedules.Ramp(.5, 10))
    teacher_targets = tf.nn.softmax(model.teacher(images))
    mentor_targets = tf.nn.softmax(mentor(images))
    expected = .25 * teacher_targets + .75 * mentor_targets  # Lambda is 0.25 in step 5.
    np.testing.assert_allclose(model.targets(images, 5), expected, atol=1e-6)
    model.fit(tiny.dataset(2), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    for weight, weight_before in zip(mentor.get_weights(), before):
        np.testing.assert_array_equal(weight, weight_before)


IMAGES = tf.random.stateless_normal([8, 8, 8, 1], [0, 1])


def build_network(name="cnn"):
    return mlnt_tf.build_network(name, width=4, input_shape=(8, 8, 1), num_classes=3, seed=0)


def test_mixed_bfloat16_keeps_weights_and_logits_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = build_network()
    finally:
        keras.config.set_dtype_policy("float32")
    model = compiled(network)
    history = fit_one_step(model, {**tiny.batch(), "image": IMAGES}).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["consistency"]).all()
    assert {variable.dtype for variable in model.student.trainable_variables} == {"float32"}
    assert model.student(IMAGES).dtype == tf.float32


@pytest.mark.parametrize("kwargs, message", [
    (dict(num_synthetic=-1), "num_synthetic"), (dict(transfer_ratio=1.5), "transfer_ratio"),
    (dict(meta_order="third"), "Received: meta_order='third'"),
    (dict(update_mode="both"), "Received: update_mode='both'"),
    (dict(fast_weights="tail"), "Received: fast_weights='tail'"),
    (dict(meta_every=0), "Received: meta_every=0"),
    (dict(synthetic_parallelism=0), "synthetic_parallelism=0")])
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mlnt_tf.MLNT(tiny.dense(), **kwargs)


def test_mentor_that_is_the_trained_network_is_refused():
    network = tiny.dense()
    with pytest.raises(ValueError, match="a network of its own"):
        mlnt_tf.MLNT(network, mentor=network)


def test_network_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        mlnt_tf.MLNT(keras.Sequential([keras.layers.Dense(3)]))


def test_full_order_refuses_a_fused_layer_that_uses_the_code_of_keras():
    images = keras.Input([4, 4])
    normalized = mlnt_tf.FusedBatchNormalization()(images)
    network = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(normalized)))
    with pytest.raises(ValueError, match="channels last"):
        mlnt_tf.MLNT(network, meta_order="full")


@pytest.mark.parametrize("layer", [
    keras.layers.BatchNormalization, keras.layers.LayerNormalization])
def test_full_order_refuses_layers_whose_second_derivative_is_wrong(layer):
    with pytest.raises(ValueError, match="FusedBatchNormalization"):
        mlnt_tf.MLNT(tiny.dense(layer=layer()), meta_order="full")
    mlnt_tf.MLNT(tiny.dense(layer=layer()), meta_order="first")


def test_logs_contain_the_rates():
    model = compiled(tiny.dense(), mentor=tiny.dense(1), teacher_weight=.5)
    history = fit_one_step(model).history
    rates = {"learning_rate": .2, "meta_rate": .4, "ema_decay": .9, "lambda": .5}
    assert {name: history[name][0] for name in rates} == pytest.approx(rates)


@pytest.mark.parametrize("name, fast_weights, num_moved, jit_compile", [
    ("cnn", "head", 2, True), ("cnn", "last_stage", 5, False),
    ("preact_resnet8", "last_stage", 11, False)])
def test_fast_weights_of_a_part_equal_all_with_zero_inner_gradient_elsewhere(
        monkeypatch, name, fast_weights, num_moved, jit_compile):
    batch = {**tiny.batch(), "image": IMAGES}
    model = compiled(build_network(name), fast_weights=fast_weights, jit_compile=jit_compile)
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    oracle = compiled(build_network(name), run_eagerly=True)
    original = objective.fast_weights

    def move_last_variables(theta, gradients, rate):
        zeros = [0 * gradient for gradient in gradients[:-num_moved]]
        return original(theta, zeros + gradients[-num_moved:], rate)

    monkeypatch.setattr(objective, "fast_weights", move_last_variables)
    oracle.train_step(batch)
    tiny.assert_equal_weights(model.student, oracle.student, atol=2e-5)


def trained(steps, **kwargs):
    model = compiled(tiny.dense(), **kwargs)
    history = model.fit(tiny.dataset(steps), verbose=0, shuffle=False).history
    return model, history


def test_steps_between_meta_updates_are_cross_entropy():
    one_step, _ = trained(1)
    tiny.assert_equal_weights(trained(1, meta_every=2)[0].student, one_step.student)
    two_steps, _ = trained(2, meta_every=2)
    plain = compiled(tiny.dense(), num_synthetic=0, run_eagerly=True)
    plain.student.set_weights(one_step.student.get_weights())
    for velocity, value in zip(plain.optimizer.velocities, one_step.optimizer.velocities):
        velocity.assign(value)
    plain.train_step(tiny.batch(seed=1))
    tiny.assert_equal_weights(two_steps.student, plain.student, atol=1e-7)
    assert int(two_steps.meta_optimizer.iterations) == 2


def test_consistency_is_the_mean_over_the_meta_steps():
    _, expected = trained(1, meta_every=1)
    _, history = trained(2, meta_every=2)
    assert history["consistency"] == pytest.approx(expected["consistency"])


def test_network_without_a_known_last_stage_is_refused():
    with pytest.raises(ValueError, match="stage2 or conv4_block6_out"):
        mlnt_tf.MLNT(tiny.dense(), fast_weights="last_stage")


def test_network_with_a_path_around_the_last_stage_is_refused():
    images = keras.Input([4])
    x = keras.layers.Dense(4, name="stage2")(images) + images
    network = keras.Model(images, keras.layers.Dense(4)(x))
    with pytest.raises(ValueError, match="every path leads through"):
        mlnt_tf.MLNT(network, fast_weights="last_stage")


def test_network_that_shares_weights_with_its_last_stage_is_refused():
    images = keras.Input([4])
    shared = keras.layers.Dense(4)
    x = keras.layers.Identity(name="stage2")(shared(images))
    network = keras.Model(images, keras.layers.Dense(2)(shared(x)))
    with pytest.raises(ValueError, match="shares no weights"):
        mlnt_tf.MLNT(network, fast_weights="last_stage")


def test_fast_weights_of_the_head_allow_full_order_with_keras_normalization():
    network = tiny.dense(layer=keras.layers.BatchNormalization())
    mlnt_tf.MLNT(network, meta_order="full", fast_weights="head")
