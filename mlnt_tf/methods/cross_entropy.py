"""Plain cross entropy: the baseline, and the base class of every other method."""

import keras
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.training.student_teacher import StudentTeacher


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    del examples
    return {"cross entropy": config.baseline_epochs}


def train(run):
    """Trains one stage of cross entropy and exports the student."""
    train_stage(run)


def train_stage(run):
    """Trains the warm-up of other methods, or the baseline itself. Returns the finished stage."""
    stage = run.stage("cross entropy")
    stage.train(CrossEntropy, epochs=run.config.baseline_epochs)
    return stage


@keras.saving.register_keras_serializable(package="mlnt_tf")
class CrossEntropy(StudentTeacher):
    """A student that trains on the given labels with cross entropy, and its averaged teacher.

    A batch is a dict of tensors. Keys that are not listed are ignored.

    - "image": float [batch, height, width, channels].
    - "label": int32 [batch], the given labels.
    - "true_label": int32 [batch], optional. Only used for the metric `true_accuracy`.
    - "weight": float32 [batch], optional. Multiplies each example's classification loss.
    - "probabilities": float32 [batch, classes], optional. Soft labels, which the loss uses instead
      of "label". The metric `accuracy` still uses "label".

    Other methods override `per_example_loss`, or `forward` if they need more than the student's
    logits, and `batch_terms`. None of them averages or weights a loss itself.

    Args, attributes, errors: as for `StudentTeacher`.

    Example:

    ```python
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = mlnt_tf.CrossEntropy(network, ema_decay=0.9)
    model.compile(optimizer="adam")
    model.fit(np.random.rand(20, 4), np.arange(20) % 3, sample_weight=np.ones(20))
    ```
    """

    # Whether the loss can use soft labels, and whether it smooths labels. If not, they are refused.
    takes_probabilities = True
    takes_label_smoothing = True
    label_smoothing = 0.0  # `compile` changes it.

    def compile(self, optimizer=None, *, label_smoothing=0.0, **kwargs):
        """Configures the classification update (paper eq. 9).

        Args:
          optimizer: any Keras optimizer, or its name. It excludes the arguments learning_rate,
            momentum and weight_decay, which describe `mlnt_tf.CoupledSGD`.
          label_smoothing: fraction of each label that the classification loss spreads evenly over
            all classes.
          **kwargs: see `mlnt_tf.training.keras_model.KerasModel.compile`.
        """
        if label_smoothing and not (self.takes_probabilities and self.takes_label_smoothing):
            raise ValueError(f"The loss of {type(self).__name__} cannot smooth labels. "
                             f"Received: {label_smoothing=}")
        self.label_smoothing = label_smoothing  # A constant of the compiled step.
        super().compile(optimizer, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config["label_smoothing"] = self.label_smoothing
        return config

    def train_step(self, batch):
        """Updates the student, then the teacher. Returns the values that `fit` logs."""
        rates = self.rates()
        gradients, logits, loss = self.classification_gradients(batch)
        self.apply(self.optimizer, gradients)
        self.update_teacher(batch["image"], rates["ema_decay"])
        [loss] = self.reduce([loss])
        return {**self.track(batch, logits, loss), **rates}

    def classification_gradients(self, batch):
        """Returns (gradients, student's logits [batch, classes], float32 scalar loss).

        This is the only forward pass that updates the student's moving statistics.

        Raises:
          ValueError: the batch has soft labels, which this method's loss cannot use.
        """
        if "probabilities" in batch and not self.takes_probabilities:
            raise ValueError(f"The loss of {type(self).__name__} cannot use soft labels. "
                             "Received: a batch with 'probabilities'")
        with tf.GradientTape() as tape:
            logits, per_example = self.forward(batch)
            loss = losses.mean_loss(per_example, batch.get("weight"))
            terms = self.batch_terms(batch, logits)
            if terms:
                loss += tf.add_n(terms)
        return tape.gradient(loss, self.trained_variables), logits, loss

    def forward(self, batch):
        """Runs the training pass.

        Returns:
          (logits [batch, classes] of the student, float32 [batch] classification losses).
        """
        logits = self.student(batch["image"], training=True)
        return logits, self.per_example_loss(batch, logits)

    def per_example_loss(self, batch, logits):
        """Returns the classification loss of each example, float32 [batch]."""
        if "probabilities" in batch:
            loss = losses.soft_cross_entropy(batch["probabilities"], logits)
        else:
            loss = losses.cross_entropy(batch["label"], logits)
        if self.label_smoothing:
            loss = losses.smooth_labels(loss, logits, self.label_smoothing)
        return loss

    def batch_terms(self, batch, logits):
        """Returns the loss terms of the batch as a whole, a list of float32 scalars.

        Example weights do not apply to them. This class returns the regularizers of the network's
        layers. A method with more terms adds them to the list.
        """
        return list(self.student.losses)
