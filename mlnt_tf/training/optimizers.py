"""SGD in PyTorch's form, which the authors' code uses, and a learning rate of the head's own."""

import keras

from mlnt_tf.training.keras_internals import variable_index


class HeadRate:
    """Mixin of an optimizer in which the variables of the head have their own learning rate.

    Args:
      head_variables: sequence of variables, or None.
      head_factor: float. The learning rate of the head is `head_factor * learning_rate`.
    """

    def set_head(self, head_variables, head_factor):
        """Stores the arguments of the class. Call it before `build`."""
        self.head_factor = head_factor
        self._head_ids = {id(variable) for variable in head_variables or ()}

    def build(self, variables):
        if not self.built:
            self._is_head = [id(variable) in self._head_ids for variable in variables]
        super().build(variables)

    def rate_of(self, variable, learning_rate):
        """Returns the learning rate of a variable, given that of the body."""
        if self._head_ids and self._is_head[variable_index(self, variable)]:
            return self.head_factor * learning_rate
        return learning_rate


@keras.saving.register_keras_serializable(package="mlnt_tf")
class CoupledSGD(HeadRate, keras.optimizers.Optimizer):
    """SGD with momentum and coupled weight decay.

    v <- momentum * v + (gradient + coupled_decay * w);  w <- w - learning_rate * v.

    The weight decay is coupled: it is added to the gradient of every trainable variable. The
    learning rate is not part of the velocity. `keras.optimizers.SGD` decouples the weight decay and
    folds the learning rate into the velocity, so the two diverge when the learning rate falls.

    With Nesterov's momentum, w moves along the decayed gradient + momentum * v, as in PyTorch.

    Args:
      learning_rate: a number or a Keras schedule of the step.
      momentum: float in [0, 1).
      nesterov: bool, whether to use Nesterov's momentum.
      coupled_decay: float, the coefficient of the weight decay.
      head_variables, head_factor: see `HeadRate`. They are not part of the saved configuration.
      name: str.
      **kwargs: further arguments of `keras.optimizers.Optimizer`.

    Example:

    ```python
    optimizer = mlnt_tf.CoupledSGD(0.1, momentum=0.9, coupled_decay=1e-4)
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    network.compile(optimizer, loss="mse")
    network.fit(np.ones([8, 4]), np.ones([8, 3]))
    ```
    """

    def __init__(self, learning_rate, *, momentum=0.0, nesterov=False, coupled_decay=0.0,
                 head_variables=None, head_factor=1.0, name="coupled_sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self.coupled_decay = coupled_decay
        self.set_head(head_variables, head_factor)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = []
        if self.momentum:
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = self.rate_of(variable, learning_rate)
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        if self.momentum:
            velocity = self.velocities[variable_index(self, variable)]
            new_velocity = self.momentum * velocity + gradient
            self.assign(velocity, new_velocity)
            if self.nesterov:
                gradient = gradient + self.momentum * new_velocity
            else:
                gradient = velocity
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self):
        config = {"momentum": self.momentum, "nesterov": self.nesterov,
                  "coupled_decay": self.coupled_decay}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="mlnt_tf")
class HeadRateAdamW(HeadRate, keras.optimizers.Adam):
    """`keras.optimizers.AdamW` in which the head has its own learning rate.

    Decoupled weight decay is multiplied by the learning rate, so that of the head uses the head's.
    `keras.optimizers.AdamW` would use the learning rate of the body for all variables.

    Args:
      learning_rate: a number or a Keras schedule of the step.
      decoupled_decay: float, the coefficient of the weight decay.
      head_variables, head_factor: see `HeadRate`. They are not part of the saved configuration.
      name: str.
      **kwargs: further arguments of `keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate, *, decoupled_decay=0.0, head_variables=None, head_factor=1.0,
                 name="head_rate_adamw", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.decoupled_decay = decoupled_decay
        self.set_head(head_variables, head_factor)

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = self.rate_of(variable, learning_rate)
        if self.decoupled_decay:
            self.assign_sub(variable, self.decoupled_decay * learning_rate * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "decoupled_decay": self.decoupled_decay}
