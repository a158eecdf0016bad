"""How the meta gradient is computed: the algorithm for the replicas, and the networks it fits."""

import dataclasses
import typing

import keras

from mlnt_tf.meta import objective, replicated

SECOND_ORDER_BROKEN = (keras.layers.BatchNormalization, keras.layers.LayerNormalization,
                       keras.layers.GroupNormalization)


@dataclasses.dataclass(frozen=True)
class MetaAlgorithm:
    """How the meta gradient of a step is computed.

    Attributes:
      meta_gradient: `objective.meta_gradient`, or `replicated.meta_gradient` with the same
        arguments.
      reduce: function that averages a list of inner gradients over the replicas.
      unrolled: whether the graph is repeated M times instead of looping. Only
        `objective.meta_gradient` takes it.
    """

    meta_gradient: typing.Callable
    reduce: typing.Callable
    unrolled: bool = False


def choose(*, replicas, synchronized, inner_reduce, reduce):
    """Returns the `MetaAlgorithm` for a number of replicas.

    Args:
      replicas: int.
      synchronized: whether the replicas synchronize within the network's forward pass.
      inner_reduce: "global" or "replica", see `mlnt_tf.MLNT`.
      reduce: function that averages a list of tensors over the replicas. On one replica it does
        nothing.
    """
    is_global = inner_reduce == "global"
    inner = reduce if is_global else _local
    if replicas > 1 and synchronized:
        # The replicas synchronize in every forward pass, so there can be no loop at all.
        return MetaAlgorithm(objective.meta_gradient, inner, unrolled=True)
    if replicas > 1 and is_global:
        # The replicas synchronize between the inner gradients and their use.
        return MetaAlgorithm(replicated.meta_gradient, inner)
    return MetaAlgorithm(objective.meta_gradient, inner)


def _local(gradients):
    """The gradients of this replica, unchanged."""
    return gradients


def refuse_broken_second_order(layers):
    """Raises ValueError if a layer's second derivative, which meta_order="full" needs, is wrong."""
    for layer in layers:
        if isinstance(layer, SECOND_ORDER_BROKEN) and not getattr(layer, "fused", False):
            raise ValueError(
                "meta_order='full' needs second derivatives, which are wrong in Keras's "
                f"{type(layer).__name__}: it stops the gradient of the mean. Use "
                "mlnt_tf.FusedBatchNormalization, channels last, or meta_order='first'. "
                f"Received: layer {layer.name!r}")


CHOICES = {
    "synthetic": ("sampled", "expected"), "meta_order": ("first", "full"),
    "fast_weights": ("all", "last_stage", "head"), "update_mode": ("sequential", "joint"),
    "inner_reduce": ("global", "replica")}


def check_arguments(*, num_synthetic, transfer_ratio, meta_every, synthetic_parallelism,
                    num_neighbors, **choices):
    """Raises ValueError unless the arguments of `mlnt_tf.MLNT` are in range and known."""
    if num_synthetic < 0 or not 0 <= transfer_ratio <= 1:
        raise ValueError("num_synthetic must be at least 0 and transfer_ratio in [0, 1]. "
                         f"Received: {num_synthetic=}, {transfer_ratio=}")
    if meta_every < 1 or synthetic_parallelism < 1 or num_neighbors < 1:
        raise ValueError("meta_every, synthetic_parallelism and num_neighbors must be at least 1. "
                         f"Received: {meta_every=}, {synthetic_parallelism=}, {num_neighbors=}")
    for name, value in choices.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, CHOICES[name]))}. "
                             f"Received: {name}={value!r}")
