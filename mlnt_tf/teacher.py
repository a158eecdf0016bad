"""The averaged teacher's callback: it owns the start and the schedule, the step does the arithmetic."""

import keras


class EmaTeacher(keras.callbacks.Callback):
    """Maintains `model.teacher` as an exponential moving average of the student (paper eq. 3).

    The average is taken inside the step, so it is right at any `steps_per_execution`; `fit` with validation data
    reports `val_teacher_accuracy` beside `val_accuracy`.

    Args:
      decay: gamma, after the ramp; in [0, 1).
      decay_start: gamma before it; None means `decay` throughout.
      ramp_steps: the step from which `decay` holds.
      statistics: batch-norm statistics of the teacher: "own", of its own forward passes on the training batches
        (as the released code), or "averaged" with its weights.

    Raises:
      ValueError: a decay outside [0, 1) or an unknown kind of statistics.
    """

    def __init__(self, decay=0.999, *, decay_start=None, ramp_steps=0, statistics="own"):
        super().__init__()
        decay_start = decay if decay_start is None else decay_start
        if not (0 <= decay < 1 and 0 <= decay_start < 1):
            raise ValueError(f"a decay must be in [0, 1). Received: decay={decay}, decay_start={decay_start}")
        if statistics not in ("own", "averaged"):
            raise ValueError(f"statistics must be 'own' or 'averaged'. Received: statistics={statistics!r}")
        self.decay, self.decay_start, self.ramp_steps, self.statistics = decay, decay_start, ramp_steps, statistics

    def on_train_begin(self, logs=None):
        model = self.model
        model.decay_start.assign(self.decay_start)
        model.decay_end.assign(self.decay)
        model.decay_boundary.assign(self.ramp_steps)
        model.teacher_statistics = self.statistics
        if model.optimizer.iterations.numpy() == 0:  # theta~ = theta at the start; a resumed run keeps its average
            model.teacher.set_weights(model.student.get_weights())
