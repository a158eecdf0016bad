"""Plain cross entropy with an averaged teacher beside it: the baseline, and what every method builds on."""

import keras
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.methods.distributed_fit import DistributedModel
from mlnt_tf.optimizer import CoupledSGD
from mlnt_tf.stage import Outcome


def train(run):
    """One stage of cross entropy; exports the student."""
    return Outcome(train_stage(run)[0], "student")


def planned_epochs(config, examples):
    return {"cross entropy": config.baseline_epochs}


def train_stage(run):
    """The stage and its results: the baseline, and what other methods begin with."""
    stage = run.stage("cross entropy")
    return stage, stage.train(CrossEntropy, epochs=run.config.baseline_epochs)


class CrossEntropy(DistributedModel):
    """A student, trained with cross entropy on the given labels, and its teacher, an average of its weights.

    The teacher stands still until `mlnt_tf.EmaTeacher` is among the callbacks of `fit`.

    Args:
      network: a Keras network that maps images [batch, height, width, channels] to logits [batch, classes].

    Attributes:
      student: the network.
      teacher: its average, a network of its own; starts at the student's weights.

    A batch is {"image", "label"} and may have "true_label"; more keys are ignored.
    """

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        if not network.built:
            raise ValueError("the network must be built: give it a keras.Input, or call it once. Received: "
                             f"{network.name!r} without weights")
        self.student = network
        try:
            self.teacher = keras.models.clone_model(network)
        except (TypeError, NotImplementedError) as error:
            raise ValueError("the teacher is a clone of the network, which must be functional, sequential or have a "
                             f"get_config. Received: {type(network).__name__}") from error
        if not self.teacher.built:
            self.teacher.build(network.input_shape)
        # trainable stays on: Keras's batch norm would use moving statistics in a frozen network.
        self.teacher.set_weights(network.get_weights())
        scalar = dict(shape=(), trainable=False, aggregation="only_first_replica")
        self.decay_start = self.add_weight(initializer="ones", name="ema_decay_start", **scalar)
        self.decay_end = self.add_weight(initializer="ones", name="ema_decay_end", **scalar)
        self.decay_boundary = self.add_weight(initializer="zeros", name="ema_decay_boundary", dtype="int64", **scalar)
        self.nonfinite_step = self.add_weight(initializer="zeros", name="nonfinite_step", dtype="int64", **scalar)
        # "off", "own" or "averaged": set by EmaTeacher before the step is traced.
        self.teacher_statistics = "off"
        mean, accuracy = keras.metrics.Mean, keras.metrics.SparseCategoricalAccuracy
        self.loss_metric = mean(name="loss")
        self.given_accuracy = accuracy(name="accuracy")
        self.true_accuracy = accuracy(name="true_accuracy")
        self.validation_metrics = [mean(name=name) for name in ("loss", "accuracy", "teacher_accuracy")]

    def compile(self, *, learning_rate, momentum=0.9, weight_decay=0.0, **kwargs):
        """Sets the classification update (paper eq. 9).

        Args:
          learning_rate: beta, a number or a Keras schedule of the step.
          momentum: of the velocity, in PyTorch's form.
          weight_decay: coupled.
          **kwargs: jit_compile, steps_per_execution, run_eagerly, as `keras.Model.compile`.
        """
        optimizer = CoupledSGD(learning_rate, momentum=momentum, coupled_decay=weight_decay)
        optimizer.build(self.trained_variables)
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)

    def call(self, images, training=False):
        return self.student(images, training=training)

    def fit(self, *args, **kwargs):
        # EmaTeacher sets what is baked into the trace, so a trace of an earlier fit must not be taken over.
        self.train_function = None
        return super().fit(*args, **kwargs)

    def train_step(self, batch):
        rates = self.rates()
        gradients, logits, loss = self.classification_gradients(batch)
        self.apply(self.optimizer, gradients)
        self.update_teacher(batch["image"], rates["ema_decay"])
        return {**self.track(batch, logits, *self.reduce([loss])), **rates}

    def classification_gradients(self, batch):
        """The gradient of Lc at the student's weights: (gradients, logits [batch, classes], loss).

        The one forward pass that writes moving statistics.
        """
        with tf.GradientTape() as tape:
            logits, loss = self.forward(batch)
            if self.student.losses:  # regularizers of the user's own layers
                loss += tf.add_n(self.student.losses)
        return tape.gradient(loss, self.trained_variables), logits, loss

    def forward(self, batch):
        """The training pass: (logits [batch, classes] of the student, loss)."""
        logits = self.student(batch["image"], training=True)
        return logits, self.batch_loss(batch, logits)

    def batch_loss(self, batch, logits):
        """The loss of a batch, a float32 scalar: the place of another method's formula."""
        return losses.cross_entropy(batch["label"], logits)

    def add_table(self, rows, columns, *, name, start=None):
        """A float32 [rows, columns] that no gradient moves, a row for each training example; saved in checkpoints."""
        return self.add_weight(shape=(rows, columns), name=name, trainable=False, aggregation="only_first_replica",
                               initializer="zeros" if start is None else lambda *_, **__: tf.constant(start))

    def rows(self, table, batch):
        """The rows of a batch's examples, by their "position": [batch, columns]."""
        return tf.gather(table.value, batch["position"])

    def write_rows(self, table, batch, values):
        """Writes values [batch, columns] to the rows of a batch's examples; every replica writes those of all."""
        positions = batch["position"]
        if self.replicas > 1:
            context = tf.distribute.get_replica_context()
            positions, values = (context.all_gather(tensor, axis=0) for tensor in (positions, values))
        table.value.scatter_update(tf.IndexedSlices(tf.stop_gradient(values), positions))

    @property
    def trained_variables(self):
        """What the classification update moves."""
        return self.student.trainable_variables

    def reduce(self, tensors):
        """The mean over replicas of a list of tensors."""
        if self.replicas == 1:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tensors)

    def apply(self, optimizer, gradients):
        """Takes the optimizer's step by the mean of the replicas' gradients: Keras sums them."""
        if self.replicas > 1:
            gradients = [None if gradient is None else gradient / self.replicas for gradient in gradients]
        optimizer.apply(gradients, self.trained_variables)

    def update_teacher(self, images, decay):
        """theta~ <- gamma theta~ + (1 - gamma) theta, after the step (paper eq. 3)."""
        if self.teacher_statistics == "off":
            return
        pairs = list(zip(self.teacher.trainable_variables, self.student.trainable_variables))
        if self.teacher_statistics == "averaged":
            pairs += [(mine, theirs) for mine, theirs in zip(self.teacher.non_trainable_variables,
                                                            self.student.non_trainable_variables)
                      if tf.as_dtype(mine.dtype).is_floating]
        elif self.teacher.non_trainable_variables and not self.teacher_forward_in_step:
            self.teacher(images, training=True)  # for its own moving statistics
        for mine, theirs in pairs:
            mine.assign(decay * mine + (1.0 - decay) * theirs)

    @property
    def teacher_forward_in_step(self):
        """Whether the step itself runs the teacher on its batch, and so keeps the teacher's own statistics."""
        return False

    @property
    def step(self):
        """Classification updates taken so far: an int64 tensor, read now."""
        return tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)

    def rates(self):
        """The rates of the step about to be taken, which go into the logs beside the metrics: float32 scalars."""
        decay = tf.where(self.step < self.decay_boundary, self.decay_start, self.decay_end)
        return {"learning_rate": tf.convert_to_tensor(self.optimizer.learning_rate), "ema_decay": decay}

    def track(self, batch, logits, loss, consistency=0.0):
        """Updates the metrics, notes the first step (from 1) whose losses are not finite; returns what to log."""
        bad = (self.nonfinite_step == 0) & ~tf.math.is_finite(loss + consistency)
        self.nonfinite_step.assign(tf.where(bad, self.step, self.nonfinite_step))
        self.loss_metric.update_state(loss)
        self.given_accuracy.update_state(batch["label"], logits)
        tracked = [self.loss_metric, self.given_accuracy]
        if "true_label" in batch:
            self.true_accuracy.update_state(batch["true_label"], logits)
            tracked.append(self.true_accuracy)
        return {metric.name: metric.result() for metric in tracked}

    def test_step(self, batch):
        """Student and teacher side by side, both with their moving statistics.

        A label below 0 fills a batch up to what the replicas can share evenly, and does not count.
        """
        labels = tf.maximum(batch["label"], 0)
        student, teacher = (tf.cast(network(batch["image"], training=False), tf.float32)
                            for network in (self.student, self.teacher))
        measured = [tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=student),
                    *(tf.cast(tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels, tf.float32)
                      for logits in (student, teacher)),
                    tf.cast(batch["label"] >= 0, tf.float32)]
        if self.replicas > 1:  # every replica counts the whole batch: their shares may differ in what does not count
            measured = tf.unstack(tf.distribute.get_replica_context().all_gather(tf.stack(measured, axis=1), axis=0),
                                  num=len(measured), axis=1)
        for metric, values in zip(self.validation_metrics, measured):
            metric.update_state(values, sample_weight=measured[-1])
        return {metric.name: metric.result() for metric in self.validation_metrics}
