"""The callback that starts the moving average of the weights and sets its schedule."""

import keras


class EmaTeacher(keras.callbacks.Callback):
    """Maintains `model.teacher` as an exponential moving average of the student (paper eq. 3).

    The average is updated inside the step, so it is exact at any `steps_per_execution`. `fit` with
    validation data reports `val_teacher_accuracy` next to `val_accuracy`.

    Args:
      decay: gamma after the ramp, in [0, 1).
      decay_start: gamma during the ramp. None means `decay` throughout.
      ramp_steps: the step from which `decay` applies.
      statistics: batch-norm statistics of the teacher: "own", from its own forward passes on the
        training batches (as in the released code), or "averaged", like its weights.

    Raises:
      ValueError: a decay is outside [0, 1) or the kind of statistics is unknown.

    Example:

    ```python
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = mlnt_tf.CrossEntropy(network)
    model.compile(learning_rate=0.1)
    teacher = mlnt_tf.EmaTeacher(0.99, decay_start=0.9, ramp_steps=100)
    model.fit(np.random.rand(20, 4), np.arange(20) % 3, callbacks=[teacher])
    ```
    """

    def __init__(self, decay=0.999, *, decay_start=None, ramp_steps=0, statistics="own"):
        super().__init__()
        if decay_start is None:
            decay_start = decay
        if not (0 <= decay < 1 and 0 <= decay_start < 1):
            raise ValueError(f"A decay must be in [0, 1). Received: {decay=}, {decay_start=}")
        if statistics not in ("own", "averaged"):
            raise ValueError(f"statistics must be 'own' or 'averaged'. Received: {statistics=}")
        self.decay = decay
        self.decay_start = decay_start
        self.ramp_steps = ramp_steps
        self.statistics = statistics

    def on_train_begin(self, logs=None):
        self.model.configure_teacher(decay=self.decay, decay_start=self.decay_start,
                                     ramp_steps=self.ramp_steps, statistics=self.statistics)
