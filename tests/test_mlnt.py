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


def compiled(network, *, fit=dict(learning_rate=.2, meta_rate=.4, momentum=.9, weight_decay=1e-4), jit_compile=False,
             run_eagerly=False, steps_per_execution=1, **kwargs):
    model = mlnt_tf.MLNT(network, **{"num_synthetic": 2, "inner_rate": .2, **kwargs})
    model.compile(**fit, jit_compile=jit_compile, run_eagerly=run_eagerly, steps_per_execution=steps_per_execution)
    return model


def one_weight_step(monkeypatch, **kwargs):
    """One step of SPEC's scalar example: theta = .5, teacher 1, label 1, synthetic labels 1 and 0."""
    model = compiled(tiny.one_weight(.5), fit=dict(learning_rate=.2, meta_rate=.4, momentum=0.0), run_eagerly=True,
                     **kwargs)
    model.configure_teacher(decay=.99, decay_start=.99, ramp_steps=0, statistics="own")
    model.teacher.layers[-1].theta.assign(1.0)
    labels = tf.constant([1, 0])
    monkeypatch.setattr("mlnt_tf.meta.synthetic.transfer_labels", lambda *_, m, **__: labels[m][None])
    batch = {"image": tf.zeros([1, 1]), "label": tf.constant([1]), "neighbor_labels": tf.constant([[0]])}
    model.train_step(batch)
    return float(model.student.layers[-1].theta), float(model.teacher.layers[-1].theta)


@pytest.mark.parametrize("kwargs, expected", [
    (dict(), .619224), (dict(update_mode="joint"), .621367), (dict(meta_order="full"), .617169)])
def test_one_step_by_hand(monkeypatch, kwargs, expected):
    assert one_weight_step(monkeypatch, **kwargs)[0] == pytest.approx(expected, abs=1e-6)


def test_joint_weight_decay_is_that_of_the_old_weights():
    """Both updates are functions of the same weights, so without momentum their steps add up."""
    def moved(**kwargs):
        settings = dict(learning_rate=.2, meta_rate=.4, momentum=0.0, weight_decay=.5) | kwargs
        model = compiled(tiny.dense(), fit=settings, update_mode="joint")
        before = tiny.weights(model.student)
        model.train_step(tiny.batch())
        return [after - start for after, start in zip(tiny.weights(model.student), before)]

    for both, meta, classification in zip(moved(), moved(learning_rate=0.0), moved(meta_rate=0.0)):
        np.testing.assert_allclose(both, meta + classification, atol=1e-6)


def test_teacher_moves_after_the_step(monkeypatch):
    assert one_weight_step(monkeypatch)[1] == pytest.approx(.996192, abs=1e-6)


def test_without_synthetic_labels_it_is_cross_entropy_bit_for_bit():
    """Eagerly, since a graph that also measures accuracy is fused otherwise than one that does not."""
    model = compiled(tiny.dense(), num_synthetic=0, run_eagerly=True)
    model.fit(tiny.dataset(6), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    network = tiny.dense()
    optimizer = CoupledSGD(.2, momentum=.9, coupled_decay=1e-4)
    optimizer.build(network.trainable_variables)
    for batch in tiny.dataset(6):
        with tf.GradientTape() as tape:
            loss = losses.mean_loss(losses.cross_entropy(batch["label"], network(batch["image"], training=True)))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
    for mine, theirs in zip(tiny.weights(model.student), tiny.weights(network)):
        np.testing.assert_array_equal(mine, theirs)


def test_without_synthetic_labels_its_graph_is_that_of_cross_entropy():
    model = compiled(tiny.dense(), num_synthetic=0)
    plain = mlnt_tf.CrossEntropy(tiny.dense())
    plain.compile(learning_rate=.2, momentum=.9, weight_decay=1e-4)
    for one in (model, plain):
        one.fit(tiny.dataset(6), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    for network in ("student", "teacher"):
        for mine, theirs in zip(tiny.weights(getattr(model, network)), tiny.weights(getattr(plain, network))):
            np.testing.assert_array_equal(mine, theirs)


def trained(**kwargs):
    layer = kwargs.pop("layer", None)
    model = compiled(tiny.dense(layer=layer), **kwargs)
    model.fit(tiny.dataset(1), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    return model


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("how", [dict(jit_compile=True), dict(run_eagerly=True)])
def test_graph_xla_and_eager_take_the_same_step(order, how):
    expected, model = trained(meta_order=order), trained(meta_order=order, **how)
    for network in ("student", "teacher"):
        for mine, theirs in zip(tiny.weights(getattr(model, network)), tiny.weights(getattr(expected, network))):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_only_the_classification_forward_writes_moving_statistics():
    network = tiny.dense(layer=mlnt_tf.FusedBatchNormalization(momentum=.9, name="norm"))
    model = compiled(network, num_synthetic=4, fit=dict(learning_rate=.2, meta_rate=0.0))
    batch = tiny.batch()
    hidden = network.layers[0](batch["image"]).numpy()
    model.fit(tiny.dataset(1), verbose=0)
    np.testing.assert_allclose(network.get_layer("norm").moving_mean, .1 * hidden.mean(axis=0), atol=1e-6)


def test_the_teacher_keeps_its_own_statistics():
    network = tiny.dense(layer=mlnt_tf.FusedBatchNormalization(momentum=.9, name="norm"))
    hidden = network.layers[0](tiny.batch()["image"]).numpy()
    model = compiled(network)
    model.fit(tiny.dataset(1), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    np.testing.assert_allclose(model.teacher.get_layer("norm").moving_mean, .1 * hidden.mean(axis=0), atol=1e-6)


def test_cross_entropy_keeps_the_teachers_own_statistics_too():
    network = tiny.dense(layer=mlnt_tf.FusedBatchNormalization(momentum=.9, name="norm"))
    model = compiled(network, num_synthetic=0)
    model.fit(tiny.dataset(1), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    hidden = model.teacher.layers[0](tiny.batch()["image"])  # after one step; the forward came before the average
    assert abs(model.teacher.get_layer("norm").moving_mean.numpy()).max() > 1e-3
    assert hidden.shape == (8, 5)


def test_averaged_statistics_follow_the_students():
    network = tiny.dense(layer=mlnt_tf.FusedBatchNormalization(momentum=.9, name="norm"))
    model = compiled(network)
    model.fit(tiny.dataset(1), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.8, statistics="averaged")])
    for statistic in ("moving_mean", "moving_variance"):
        student = getattr(model.student.get_layer("norm"), statistic).numpy()
        start = 0.0 if statistic == "moving_mean" else 1.0
        np.testing.assert_allclose(getattr(model.teacher.get_layer("norm"), statistic), .8 * start + .2 * student,
                                   atol=1e-6)


def test_two_streams_take_the_meta_and_the_classification_batch():
    meta, other = tiny.batch(seed=0), tiny.batch(seed=1)
    model = compiled(tiny.dense(), fit=dict(learning_rate=.2, meta_rate=0.0))
    model.train_step({"meta": meta, "classification": other})
    plain = compiled(tiny.dense(), num_synthetic=0, fit=dict(learning_rate=.2))
    plain.train_step(other)
    for mine, theirs in zip(tiny.weights(model.student), tiny.weights(plain.student)):
        np.testing.assert_allclose(mine, theirs, atol=1e-7)


def test_the_mentor_is_merged_into_the_target_and_stays_frozen():
    mentor, images = tiny.dense(seed=9), tiny.batch()["image"]
    before = [weight.copy() for weight in mentor.get_weights()]
    model = compiled(tiny.dense(), mentor=mentor, teacher_weight=schedules.Ramp(.5, 10))
    teacher, of_mentor = tf.nn.softmax(model.teacher(images)), tf.nn.softmax(mentor(images))
    np.testing.assert_allclose(model.targets(images, 5), .25 * teacher + .75 * of_mentor, atol=1e-6)
    model.fit(tiny.dataset(2), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    for mine, theirs in zip(mentor.get_weights(), before):
        np.testing.assert_array_equal(mine, theirs)


def test_mixed_bfloat16_keeps_weights_and_logits_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = mlnt_tf.build_network("cnn", width=4, input_shape=(8, 8, 1), num_classes=3, seed=0)
    finally:
        keras.config.set_dtype_policy("float32")
    model = compiled(network)
    batch = {**tiny.batch(), "image": tf.random.stateless_normal([8, 8, 8, 1], [0, 1])}
    logs = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)]).history
    assert np.isfinite(logs["loss"]).all() and np.isfinite(logs["consistency"]).all()
    assert {variable.dtype for variable in model.student.trainable_variables} == {"float32"}
    assert model.student(batch["image"]).dtype == tf.float32


@pytest.mark.parametrize("kwargs, message", [
    (dict(num_synthetic=-1), "num_synthetic"), (dict(transfer_ratio=1.5), "transfer_ratio"),
    (dict(meta_order="third"), "Received: meta_order='third'"), (dict(update_mode="both"), "update_mode")])
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mlnt_tf.MLNT(tiny.dense(), **kwargs)


def test_networks_that_cannot_serve_are_refused():
    network = tiny.dense()
    with pytest.raises(ValueError, match="a network of its own"):
        mlnt_tf.MLNT(network, mentor=network)
    with pytest.raises(ValueError, match="must be built"):
        mlnt_tf.MLNT(keras.Sequential([keras.layers.Dense(3)]))


def test_batches_of_unknown_size_are_refused():
    model = compiled(tiny.dense(), run_eagerly=False)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        model.fit(tiny.dataset(2).unbatch().batch(8), verbose=0)


def test_full_order_refuses_a_fused_layer_that_falls_back():
    images = keras.Input([4, 4])
    normalized = mlnt_tf.FusedBatchNormalization()(images)
    network = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(normalized)))
    with pytest.raises(ValueError, match="channels last"):
        mlnt_tf.MLNT(network, meta_order="full")


@pytest.mark.parametrize("layer", [keras.layers.BatchNormalization, keras.layers.LayerNormalization])
def test_full_order_refuses_layers_whose_second_derivative_is_wrong(layer):
    with pytest.raises(ValueError, match="FusedBatchNormalization"):
        mlnt_tf.MLNT(tiny.dense(layer=layer()), meta_order="full")
    mlnt_tf.MLNT(tiny.dense(layer=layer()), meta_order="first")


def test_logs_carry_the_rates():
    model = compiled(tiny.dense(), mentor=tiny.dense(1), teacher_weight=.5)
    history = model.fit(tiny.dataset(2), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)]).history
    rates = {name: pytest.approx(value) for name, value in
             dict(learning_rate=.2, meta_rate=.4, ema_decay=.9).items()} | {"lambda": pytest.approx(.5)}
    assert {name: history[name][0] for name in rates} == rates


@pytest.mark.parametrize("name, fast_weights, count, jit_compile", [
    ("cnn", "head", 2, True), ("cnn", "last_stage", 5, False), ("preact_resnet8", "last_stage", 11, False)])
def test_part_of_the_network_as_fast_weights_takes_the_step_of_all_with_the_rest_held(
        monkeypatch, name, fast_weights, count, jit_compile):
    """The oracle: `all`, the inner gradient set to zero but for the last `count` variables."""
    batch = {**tiny.batch(), "image": tf.random.stateless_normal([8, 8, 8, 1], [0, 1])}
    build = dict(width=4, input_shape=(8, 8, 1), num_classes=3, seed=0)
    model = compiled(mlnt_tf.build_network(name, **build), fast_weights=fast_weights, jit_compile=jit_compile)
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    oracle = compiled(mlnt_tf.build_network(name, **build), run_eagerly=True)
    held = [place < len(oracle.student.trainable_variables) - count
            for place in range(len(oracle.student.trainable_variables))]
    plain = objective.fast_weights

    def with_the_rest_held(theta, gradients, rate):
        return plain(theta, [0 * part if still else part for part, still in zip(gradients, held)], rate)

    monkeypatch.setattr(objective, "fast_weights", with_the_rest_held)
    oracle.train_step(batch)
    for mine, theirs in zip(tiny.weights(model.student), tiny.weights(oracle.student)):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_every_second_step_is_cross_entropy():
    def weights_after(steps, **kwargs):
        model = compiled(tiny.dense(), **kwargs)
        model.fit(tiny.dataset(steps), verbose=0, shuffle=False)
        return tiny.weights(model.student), model

    one, _ = weights_after(1)
    for mine, theirs in zip(weights_after(1, meta_every=2)[0], one):
        np.testing.assert_array_equal(mine, theirs)
    two, model = weights_after(2, meta_every=2)
    plain = compiled(tiny.dense(), num_synthetic=0, run_eagerly=True)
    for variable, weight in zip(plain.student.trainable_variables, one):
        variable.assign(weight)
    for velocity, other in zip(plain.optimizer.velocities, weights_after(1)[1].optimizer.velocities):
        velocity.assign(other)
    plain.train_step(tiny.batch(seed=1))
    for mine, theirs in zip(two, tiny.weights(plain.student)):
        np.testing.assert_allclose(mine, theirs, atol=1e-7)
    assert int(model.meta_optimizer.iterations) == 2


def test_consistency_is_the_mean_over_the_meta_steps():
    every = compiled(tiny.dense(), meta_every=1).fit(tiny.dataset(1), verbose=0).history["consistency"]
    second = compiled(tiny.dense(), meta_every=2).fit(tiny.dataset(2), verbose=0, shuffle=False).history["consistency"]
    assert second == pytest.approx(every)


def test_networks_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="stage2 or conv4_block6_out"):
        mlnt_tf.MLNT(tiny.dense(), fast_weights="last_stage")
    images = keras.Input([4])
    network = keras.Model(images, keras.layers.Dense(4)(keras.layers.Dense(4, name="stage2")(images) + images))
    with pytest.raises(ValueError, match="every path leads through"):
        mlnt_tf.MLNT(network, fast_weights="last_stage")
    shared = keras.layers.Dense(4)
    network = keras.Model(images, keras.layers.Dense(2)(shared(keras.layers.Identity(name="stage2")(shared(images)))))
    with pytest.raises(ValueError, match="shares no weights"):
        mlnt_tf.MLNT(network, fast_weights="last_stage")


def test_the_head_alone_allows_full_order_above_keras_normalization():
    mlnt_tf.MLNT(tiny.dense(layer=keras.layers.BatchNormalization()), meta_order="full", fast_weights="head")


@pytest.mark.parametrize("settings", [dict(fast_weights="tail"), dict(meta_every=0), dict(synthetic_parallelism=0)])
def test_bad_settings_of_the_inner_step_are_refused(settings):
    with pytest.raises(ValueError, match="Received"):
        mlnt_tf.MLNT(tiny.dense(), **settings)
