"""The metrics that `compile` takes, once for each network of a model."""

import keras

from mlnt_tf.training.keras_internals import function_of

# Metrics that Keras creates from a name and that only depend on the order of the outputs.
ORDER_ONLY = ("sparse_categorical_accuracy", "sparse_top_k_categorical_accuracy")
MEASURED_ALWAYS = ("accuracy", "acc")
RESERVED = ("loss", "accuracy", "true_accuracy", "consistency")


def metrics_by_network(metrics, networks):
    """Returns {network: list of metrics}, each with the network's name before its own.

    The student's metrics keep their names. "accuracy" is left out, because it is always measured.

    Args:
      metrics: list of names, `keras.metrics.Metric` or functions of (labels [batch], logits
        [batch, classes]) that return a value per example. None means no metrics.
      networks: the names of the networks.

    Raises:
      ValueError: a metric needs probabilities, which the networks do not compute, or its name is
        taken.
    """
    if metrics is None:
        metrics = []
    if isinstance(metrics, (str, dict)) or not hasattr(metrics, "__iter__"):
        raise ValueError(f"metrics must be a list. Received: {metrics=}")
    own = [_metric(metric) for metric in metrics if metric not in MEASURED_ALWAYS]
    names = [metric.name for metric in own]
    taken = [name for name in names if name in RESERVED or names.count(name) > 1]
    if taken:
        raise ValueError("Each metric needs a name of its own, and loss and accuracy are always "
                         f"measured. Received: {taken[0]!r}")
    return {network: [_copy_for(network, metric) for metric in own] for network in networks}


def _metric(metric):
    if isinstance(metric, str):
        if metric not in ORDER_ONLY:
            raise ValueError(
                "The networks compute logits, for which a metric's name is not enough. Pass an "
                "object, for example keras.metrics.SparseCategoricalCrossentropy("
                f"from_logits=True). Received: {metric!r}")
        return keras.metrics.get(metric) if _is_class(metric) else _wrap(metric)
    if isinstance(metric, keras.metrics.Metric):
        if metric.get_config().get("from_logits") is False:
            raise ValueError("The networks compute logits, so this metric needs from_logits=True. "
                             f"Received: {metric.name!r}")
        return metric
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        return keras.metrics.MeanMetricWrapper(metric, name=name)
    raise ValueError(f"A metric is a name, a keras.metrics.Metric or a function. Received: "
                     f"{metric!r}")


def _is_class(name):
    return isinstance(keras.metrics.get(name), keras.metrics.Metric)


def _wrap(name):
    return keras.metrics.MeanMetricWrapper(keras.metrics.get(name), name=name)


def _copy_for(network, metric):
    if network == "student":
        return metric
    if type(metric) is keras.metrics.MeanMetricWrapper:  # Its function need not be registered.
        name = f"{network}_{metric.name}"
        return keras.metrics.MeanMetricWrapper(function_of(metric), name=name)
    return type(metric).from_config(
        {**metric.get_config(), "name": f"{network}_{metric.name}"})
