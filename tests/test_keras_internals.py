"""Each private attribute in `keras_internals` is still needed.

When one of these tests fails, Keras or TensorFlow has a public replacement: use it. What `fit`
lacks under strategies of several replicas is tested in test_replicas.py.
"""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlnt_tf.training import keras_internals

import tiny


def nested_network():
    inner = keras.Sequential([keras.Input([4]), keras.layers.Dense(4, name="inner")])
    return keras.Sequential([keras.Input([4]), inner, keras.layers.Dense(3, name="outer")])


def test_nested_layers_include_those_of_nested_networks():
    names = [layer.name for layer in keras_internals.nested_layers(nested_network())]
    assert {"inner", "outer"} <= set(names)


def test_keras_has_no_public_list_of_nested_layers():
    assert "inner" not in [layer.name for layer in nested_network().layers]
    assert not hasattr(keras.Model, "flatten_layers")


def test_variable_index_follows_the_order_given_to_optimizer_build():
    variables = [keras.Variable(0.0), keras.Variable(1.0)]
    optimizer = keras.optimizers.SGD()
    optimizer.build(variables)
    assert [keras_internals.variable_index(optimizer, one) for one in variables] == [0, 1]


def test_keras_has_no_public_index_of_a_variable():
    assert not hasattr(keras.optimizers.Optimizer, "get_variable_index")
    assert not hasattr(keras.optimizers.Optimizer, "variable_index")


def logged_learning_rate(callback, directory):
    """The learning rate in the events of an epoch whose logs say 0.5, at an optimizer's 0.1."""
    network = tiny.dense()
    network.compile(optimizer=keras.optimizers.SGD(.1))
    callback.set_model(network)
    callback.on_train_begin()
    callback.on_epoch_end(0, {"loss": 1.0, "learning_rate": .5})
    callback.on_train_end()
    events = EventAccumulator(str(directory / "train"))
    events.Reload()
    (event,) = events.Tensors("epoch_learning_rate")
    return float(tf.make_ndarray(event.tensor_proto))


def test_tensorboard_writes_the_learning_rate_of_the_logs(tmp_path):
    callback = keras_internals.TensorBoardOfLogs(tmp_path)
    assert logged_learning_rate(callback, tmp_path) == pytest.approx(.5)


def test_keras_tensorboard_overwrites_the_learning_rate_of_the_logs(tmp_path):
    callback = keras.callbacks.TensorBoard(tmp_path)
    assert logged_learning_rate(callback, tmp_path) == pytest.approx(.1)


def graph_with_loop():
    @tf.function
    def loop(x):
        return tf.while_loop(lambda x: x < 10, lambda x: x + 1, [x])

    return loop.get_concrete_function(tf.constant(0)).graph


def test_called_graph_is_that_of_the_loop_body():
    graph = graph_with_loop()
    (loop,) = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
    body = keras_internals.called_graph(graph, loop.get_attr("body").name)
    assert "AddV2" in [op.type for op in body.get_operations()]


def test_tensorflow_has_no_public_access_to_called_functions():
    graph = graph_with_loop()
    public = [name for name in dir(graph) if not name.startswith("_") and "function" in name]
    assert sorted(public) == ["building_function", "function_captures"]


def test_parameters_include_those_of_frozen_layers():
    network = nested_network()
    network.layers[0].trainable = False
    assert len(keras_internals.parameters(network)) == 4 and len(network.trainable_variables) == 2


def test_an_optimizer_has_no_public_list_of_its_variables():
    variables = [keras.Variable(0.0)]
    optimizer = keras.optimizers.SGD()
    optimizer.build(variables)
    assert keras_internals.built_for(optimizer) == variables
    assert not hasattr(keras.optimizers.Optimizer, "trainable_variables")


def test_a_wrapped_metric_does_not_show_its_function():
    metric = keras.metrics.MeanMetricWrapper(abs, name="abs")
    assert keras_internals.function_of(metric) is abs
    assert not hasattr(metric, "fn") and not hasattr(metric, "function")


def test_preserved_seeds_continue_the_random_numbers():
    def draw():
        return (random.random(), np.random.rand(), float(tf.random.uniform([])),
                float(keras.random.uniform([])))

    keras.utils.set_random_seed(3)
    draw()
    expected = draw()
    keras.utils.set_random_seed(3)
    draw()
    with keras_internals.preserved_seeds():
        keras.utils.set_random_seed(4)
        draw()
    assert draw() == expected
