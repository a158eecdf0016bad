"""A Keras network as a pure function of its trainable weights."""

import dataclasses
import typing

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class PureNetwork:
    """A network as a pure function of its trainable weights.

    Attributes:
      forward: function (weights, inputs) -> outputs. It uses batch statistics and discards the
        updates of all variables.
      variables: the trainable variables, in the order of `weights`.
    """

    forward: typing.Callable
    variables: list

    def weights(self):
        """The current values of the variables: a list of tensors."""
        return [tf.convert_to_tensor(variable.value) for variable in self.variables]


def pure_network(network, *, jit_compile):
    """Returns the network, or a part of one, as a `PureNetwork`.

    Args:
      network: a Keras model.
      jit_compile: whether to compile `forward` with XLA on its own.
    """
    fixed = [variable.value for variable in network.non_trainable_variables]

    def forward(weights, inputs):
        outputs, _ = network.stateless_call(weights, fixed, inputs, training=True)
        return outputs

    if jit_compile:
        forward = tf.function(forward, jit_compile=True)
    return PureNetwork(forward, network.trainable_variables)
