"""SGD in PyTorch's form, which the authors' code uses. Keras's SGD differs in two ways."""

import keras

from mlnt_tf.training.keras_internals import variable_index


@keras.saving.register_keras_serializable(package="mlnt_tf")
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD with momentum and coupled weight decay.

    v <- momentum * v + (gradient + coupled_decay * w);  w <- w - learning_rate * v.

    The weight decay is coupled: it is added to the gradient of every trainable variable. The
    learning rate is not part of the velocity. `keras.optimizers.SGD` decouples the weight decay and
    folds the learning rate into the velocity, so the two diverge when the learning rate falls.

    Args:
      learning_rate: a number or a Keras schedule of the step.
      momentum: float in [0, 1).
      coupled_decay: float, the coefficient of the weight decay.
      name: str.
      **kwargs: further arguments of `keras.optimizers.Optimizer`.
    """

    def __init__(self, learning_rate, *, momentum=0.0, coupled_decay=0.0, name="coupled_sgd",
                 **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.coupled_decay = coupled_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = []
        if self.momentum:
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        if self.momentum:
            velocity = self.velocities[variable_index(self, variable)]
            self.assign(velocity, self.momentum * velocity + gradient)
            gradient = velocity
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self):
        config = {"momentum": self.momentum, "coupled_decay": self.coupled_decay}
        return {**super().get_config(), **config}
