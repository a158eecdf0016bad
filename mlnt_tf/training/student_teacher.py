"""A student network and its averaged teacher: everything that does not depend on the loss."""

import keras
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.training import networks
from mlnt_tf.training.callbacks import accuracy_name
from mlnt_tf.training.keras_model import KerasModel, Untracked


class StudentTeacher(KerasModel):
    """A student, trained by a subclass's `train_step`, and its teacher, the average of the student.

    Args:
      network: a Keras network that maps images [batch, height, width, channels] to logits
        [batch, classes].
      ema_decay: gamma, the decay of the teacher's moving average in [0, 1]. 1 keeps the teacher at
        the initial weights. `mlnt_tf.EmaTeacher` in the callbacks of `fit` replaces it by a
        schedule.
      teacher_statistics: the teacher's batch-norm statistics: "own", from its own forward passes on
        the training batches, or "averaged", like its weights.

    Attributes:
      student: the network.
      teacher: a second network. It starts with the weights that the student has before its first
        training step.
      num_classes: int, the number of logits.

    Raises:
      ValueError: the network is not built, cannot be cloned, computes in float16 or ends in a
        softmax, or an argument is out of range.
    """

    def __init__(self, network, *, ema_decay=0.999, teacher_statistics="own", **kwargs):
        if not 0 <= ema_decay <= 1 or teacher_statistics not in ("own", "averaged"):
            raise ValueError("ema_decay must be in [0, 1], and teacher_statistics 'own' or "
                             f"'averaged'. Received: {ema_decay=}, {teacher_statistics=}")
        networks.check_network(network)
        super().__init__(**kwargs)
        self.ema_decay = ema_decay
        self.student = network
        self.num_classes = networks.count_classes(network, run=self.replicas == 1)
        # The teacher's layers are trainable like the student's: in a frozen layer, Keras's batch
        # normalization would use moving statistics.
        self.teacher = networks.clone(network)
        decay = keras.initializers.Constant(ema_decay)
        self.decay_start = self._add_scalar("ema_decay_start", initializer=decay)
        self.decay_end = self._add_scalar("ema_decay_end", initializer=decay)
        self.decay_boundary = self._add_scalar("ema_decay_boundary", dtype="int64")
        self.nonfinite_step = self._add_scalar("nonfinite_step", dtype="int64")
        self.step_counter = self._add_scalar("step", dtype="int64")
        self._teacher_statistics = "off" if ema_decay == 1 else teacher_statistics
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.given_accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.true_accuracy = keras.metrics.SparseCategoricalAccuracy(name="true_accuracy")
        self._validation_metrics = Untracked({})
        self.built = True  # All weights exist. `build` would forbid subclasses to add more.

    def get_config(self):
        config = super().get_config()
        if self.ema_decay == 1:
            config["teacher_statistics"] = "own"  # The property is "off".
        return config

    def _add_scalar(self, name, *, initializer="zeros", dtype="float32"):
        return self.add_weight(shape=(), initializer=initializer, name=name, dtype=dtype,
                               trainable=False, aggregation="only_first_replica")

    @property
    def networks(self):
        """The networks by name: a dict of Keras models that map images to logits.

        Validation measures each of them. The accuracy of "student" is logged as "accuracy", that of
        any other network as "{name}_accuracy". A method with more networks overrides this property
        and keeps the key "student", whose loss is the validation loss.
        """
        return {"student": self.student, "teacher": self.teacher}

    @property
    def ema_pairs(self):
        """Pairs (teacher, student): each teacher is the moving average of its student."""
        return [(self.teacher, self.student)]

    @property
    def metrics(self):
        # The validation metrics depend on `networks`, which is complete only when `compile` runs.
        # Keras refuses new tracked metrics by then if the model has been called before.
        return [*super().metrics, *self._validation_metrics.value.values()]

    @property
    def metrics_names(self):
        """The names of the numbers that `evaluate` returns, in order."""
        further = [metric.name for name in self.networks for metric in self.further_metrics(name)]
        return [*self._validation_metrics.value, *further]

    def prepare_to_compile(self):
        for teacher, student in self.ema_pairs:
            networks.copy_trainable_flags(student, teacher)
            networks.pair_parameters(teacher, student)  # Raises if they do not match.

    def compile(self, optimizer=None, **kwargs):
        super().compile(optimizer, **kwargs)
        if not self._validation_metrics.value:
            self._validation_metrics.value = self._new_validation_metrics()

    def _new_validation_metrics(self):
        names = ["loss"] + [accuracy_name(network) for network in self.networks]
        return {name: keras.metrics.Mean(name=name) for name in names}

    def configure_teacher(self, *, decay, decay_start, ramp_steps, statistics):
        """Starts the moving average of `ema_pairs`. `mlnt_tf.EmaTeacher` calls it before training.

        Before the first training step, each teacher takes the weights of its student. A resumed run
        keeps its average.

        Args:
          decay: gamma after the ramp.
          decay_start: gamma during the ramp.
          ramp_steps: the step from which `decay` applies.
          statistics: batch-norm statistics of the teacher: "own", from its own forward passes on
            the training batches, or "averaged", like its weights.
        """
        self.decay_start.assign(decay_start)
        self.decay_end.assign(decay)
        self.decay_boundary.assign(ramp_steps)
        self.teacher_statistics = statistics
        self.start_teacher()

    @property
    def teacher_statistics(self):
        """"own", "averaged", or "off" if the teacher is not updated. See the class."""
        return self._teacher_statistics

    @teacher_statistics.setter
    def teacher_statistics(self, statistics):
        if statistics == self._teacher_statistics:
            return
        self._teacher_statistics = statistics
        if self.train_function is not None:  # The value is a constant of the compiled step.
            self.make_train_function(force=True)

    def start_teacher(self):
        """Gives each teacher the weights of its student if no step has been taken yet."""
        if self.step_counter.numpy() == 0:
            for teacher, student in self.ema_pairs:
                teacher.set_weights(student.get_weights())

    def call(self, images, training=False):
        return self.student(images, training=training)

    def add_table(self, rows, columns, *, name, start=None):
        """Adds a float32 [rows, columns] variable with one row per training example.

        It is not trainable and is saved in checkpoints. It starts with zeros, or with `start`.
        """
        def initial_value(shape, dtype=None):
            if start is None:
                return tf.zeros(shape, dtype)
            return tf.constant(start, dtype)

        return self.add_weight(shape=(rows, columns), name=name, initializer=initial_value,
                               trainable=False, aggregation="none")  # See `write_rows`.

    def rows(self, table, batch):
        """Returns the table's rows at `batch["position"]`, [batch, columns]."""
        return tf.gather(table.value, batch["position"])

    def write_rows(self, table, batch, values):
        """Writes values [batch, columns] to a table's rows of the batch's examples.

        Every replica writes the rows of all replicas to its own copy, so the copies stay equal
        without an aggregation.
        """
        positions, values = self._gather(batch["position"]), self._gather(values)
        table.value.scatter_update(tf.IndexedSlices(tf.stop_gradient(values), positions))

    @property
    def trained_variables(self):
        """The variables that the classification update changes."""
        return self.student.trainable_variables

    @property
    def head_variables(self):
        """The variables of the last layer of each network, which --head_learning_rate trains."""
        return [variable for network in self.networks.values()
                for variable in network.layers[-1].trainable_variables]

    def reduce(self, tensors):
        """Averages a list of tensors over the replicas."""
        if self.replicas == 1:
            return tensors
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, tensors)

    def apply(self, optimizer, gradients):
        """Takes a step of the optimizer along the mean of the replicas' gradients."""
        if self.replicas > 1:  # Keras sums the gradients over the replicas.
            gradients = [None if gradient is None else gradient / self.replicas
                         for gradient in gradients]
        optimizer.apply(gradients, self.trained_variables)
        if optimizer is self.optimizer:
            # `optimizer.iterations` stands still while gradients are accumulated.
            self.step_counter.assign_add(1)

    def update_teacher(self, images, decay):
        """theta~ <- gamma theta~ + (1 - gamma) theta, after the step (paper eq. 3)."""
        if self.teacher_statistics == "off":
            return
        for teacher, student in self.ema_pairs:
            pairs = networks.pair_parameters(teacher, student)
            if self.teacher_statistics == "averaged":
                pairs += zip(networks.changing_statistics(teacher),
                             networks.changing_statistics(student))
            elif (networks.changing_statistics(teacher, floating=False)
                  and not self.teacher_forward_in_step):
                teacher(images, training=True)  # Updates the teacher's own moving statistics.
            for average, source in pairs:
                average.assign(decay * average + (1.0 - decay) * source)

    @property
    def teacher_forward_in_step(self):
        """Whether the step itself runs the teacher in training mode, updating its statistics."""
        return False

    @property
    def step(self):
        """Number of classification updates so far: an int64 scalar, read when it is called."""
        return tf.convert_to_tensor(self.step_counter)

    def rates(self):
        """The rates of the coming step, logged next to the metrics: a dict of float32 scalars."""
        decay = tf.where(self.step < self.decay_boundary, self.decay_start, self.decay_end)
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        return {"learning_rate": learning_rate, "ema_decay": decay}

    def track(self, batch, logits, loss, consistency=0.0):
        """Updates the training metrics and returns their values.

        It also stores the number (from 1) of the first step with a loss that is not finite.
        """
        not_finite = ~tf.math.is_finite(loss + consistency)
        is_first = (self.nonfinite_step == 0) & not_finite
        self.nonfinite_step.assign(tf.where(is_first, self.step, self.nonfinite_step))
        self.loss_metric.update_state(loss)
        self.given_accuracy.update_state(batch["label"], logits)
        tracked = [self.loss_metric, self.given_accuracy]
        if "true_label" in batch:
            self.true_accuracy.update_state(batch["true_label"], logits)
            tracked.append(self.true_accuracy)
        for metric in self.further_metrics("student"):
            metric.update_state(batch["label"], logits)
            tracked.append(metric)
        return {metric.name: metric.result() for metric in tracked}

    def test_step(self, batch):
        """Measures every network of `networks`, using moving statistics.

        A label below 0 marks padding, which evens out the replicas' parts and is not counted.
        """
        labels = tf.maximum(batch["label"], 0)
        is_example = tf.cast(batch["label"] >= 0, tf.float32)
        measured = {}  # Metric name -> float32 [batch].
        outputs = {}
        for name, network in self.networks.items():
            logits = tf.cast(network(batch["image"], training=False), tf.float32)
            outputs[name] = logits
            if name == "student":
                measured["loss"] = losses.cross_entropy(labels, logits)
                if "weight" in batch:
                    measured["loss"] *= batch["weight"]
            is_correct = tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels
            measured[accuracy_name(name)] = tf.cast(is_correct, tf.float32)
        *columns, is_example = self._gather_columns([*measured.values(), is_example])
        metrics = dict(self._validation_metrics.value)
        for name, values in zip(measured, columns):
            metrics[name].update_state(values, sample_weight=is_example)
        for name, logits in outputs.items():
            for metric in self.further_metrics(name):
                metrics[metric.name] = metric
                metric.update_state(self._gather(labels), self._gather(logits),
                                    sample_weight=is_example)
        return {name: metric.result() for name, metric in metrics.items()}

    def _gather(self, rows):
        """The rows of the global batch, on every replica."""
        if self.replicas == 1:
            return rows
        # The copy has a device. Workers cannot gather a tensor of the input, which has none.
        return tf.distribute.get_replica_context().all_gather(tf.identity(rows), axis=0)

    def _gather_columns(self, columns):
        """The columns, each [batch], of the global batch.

        Each replica counts the global batch, because their parts can hold different amounts of
        padding.
        """
        if self.replicas == 1:
            return columns
        return tf.unstack(self._gather(tf.stack(columns, axis=1)), num=len(columns), axis=1)
