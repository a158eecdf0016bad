"""SGD in PyTorch's form, which the paper's code used; Keras's own differs in two ways that matter here."""

import keras


@keras.saving.register_keras_serializable(package="mlnt_tf")
class CoupledSGD(keras.optimizers.Optimizer):
    """v <- momentum * v + (g + decay * w);  w <- w - rate * v.

    The weight decay is coupled (it is part of the gradient, on every trainable) and the rate stays outside the
    velocity. `keras.optimizers.SGD` decouples the decay and folds the rate into the velocity, so the two part
    when the rate falls.

    Args:
      learning_rate: a number or a Keras schedule.
      momentum: in [0, 1).
      coupled_decay: the coefficient of the weight decay.
    """

    def __init__(self, learning_rate, *, momentum=0.0, coupled_decay=0.0, name="coupled_sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum, self.coupled_decay = momentum, coupled_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity") if self.momentum else []

    def update_step(self, gradient, variable, learning_rate):
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        if self.momentum:
            velocity = self.velocities[self._get_variable_index(variable)]
            self.assign(velocity, self.momentum * velocity + gradient)
            gradient = velocity
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "coupled_decay": self.coupled_decay}
