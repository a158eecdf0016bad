"""A student network and its averaged teacher: everything that does not depend on the loss."""

import keras
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.training.callbacks import accuracy_name
from mlnt_tf.training.keras_internals import DistributedModel, nested_layers
from mlnt_tf.training.optimizer_arguments import classification_optimizer


class Untracked:
    """Holds an object so that Keras does not track it as part of a model.

    Keras adds every network and metric that is assigned to a model's attribute to the model's own
    state. A network that only shares weights with the student would then be counted twice.
    """

    def __init__(self, value):
        self.value = value


class StudentTeacher(DistributedModel):
    """A student, trained by a subclass's `train_step`, and its teacher, the average of the student.

    Without `mlnt_tf.EmaTeacher` in the callbacks of `fit`, the teacher is never updated.

    Args:
      network: a Keras network that maps images [batch, height, width, channels] to logits
        [batch, classes].

    Attributes:
      student: the network.
      teacher: a second network. It starts with the student's weights.

    Raises:
      ValueError: the network is not built or cannot be cloned.
    """

    # Whether the loss can use soft labels, and whether it smooths labels. If not, they are refused.
    takes_probabilities = True
    takes_label_smoothing = True
    label_smoothing = 0.0  # `compile` changes it.

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        if not network.built:
            raise ValueError("The network must be built: add a keras.Input, or call it once. "
                             f"Received: {network.name!r}, which has no weights yet")
        self.student = network
        try:
            self.teacher = keras.models.clone_model(network)
        except (TypeError, NotImplementedError) as error:
            raise ValueError("The teacher is a clone of the network, which must be functional, "
                             "sequential or have a get_config. "
                             f"Received: {type(network).__name__}") from error
        if not self.teacher.built:
            self.teacher.build(network.input_shape)
        # The teacher's layers are trainable like the student's: in a frozen layer, Keras's batch
        # normalization would use moving statistics.
        self.teacher.set_weights(network.get_weights())
        self.decay_start = self._add_scalar("ema_decay_start", initializer="ones")
        self.decay_end = self._add_scalar("ema_decay_end", initializer="ones")
        self.decay_boundary = self._add_scalar("ema_decay_boundary", dtype="int64")
        self.nonfinite_step = self._add_scalar("nonfinite_step", dtype="int64")
        self.teacher_statistics = "off"  # `configure_teacher` changes it.
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.given_accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.true_accuracy = keras.metrics.SparseCategoricalAccuracy(name="true_accuracy")
        self._validation_metrics = Untracked({})

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

    def compile(self, optimizer=None, *, learning_rate=None, momentum=None, weight_decay=None,
                label_smoothing=0.0, **kwargs):
        """Configures the classification update (paper eq. 9).

        Args:
          optimizer: any Keras optimizer, or its name. It excludes the next three arguments, which
            describe `mlnt_tf.CoupledSGD`.
          learning_rate: beta, a number or a Keras schedule of the step.
          momentum: of the velocity, in PyTorch's form. 0.9 by default.
          weight_decay: coefficient of the coupled weight decay. 0 by default.
          label_smoothing: fraction of each label that the classification loss spreads evenly over
            all classes.
          **kwargs: jit_compile, steps_per_execution and run_eagerly, as for `keras.Model.compile`.
        """
        if label_smoothing and not (self.takes_probabilities and self.takes_label_smoothing):
            raise ValueError(f"The loss of {type(self).__name__} cannot smooth labels. "
                             f"Received: {label_smoothing=}")
        self.label_smoothing = label_smoothing  # A constant of the compiled step.
        optimizer = classification_optimizer(
            optimizer, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
        optimizer.build(self.trained_variables)
        kwargs.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **kwargs)
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
        self.teacher_statistics = statistics  # A constant of the compiled step, see `fit`.
        if self.optimizer.iterations.numpy() == 0:
            for teacher, student in self.ema_pairs:
                teacher.set_weights(student.get_weights())

    def call(self, images, training=False):
        return self.student(images, training=training)

    def fit(self, *args, **kwargs):
        # `configure_teacher` changes constants of the compiled step, so each `fit` traces it again.
        self.train_function = None
        return super().fit(*args, **kwargs)

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

        Every replica writes the rows of all replicas to its own copy, so the copies stay equal without
        an aggregation.
        """
        positions = batch["position"]
        if self.replicas > 1:
            context = tf.distribute.get_replica_context()
            # The copy has a device. Workers cannot gather a tensor of the input, which has none.
            positions = context.all_gather(tf.identity(positions), axis=0)
            values = context.all_gather(values, axis=0)
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

    def update_teacher(self, images, decay):
        """theta~ <- gamma theta~ + (1 - gamma) theta, after the step (paper eq. 3)."""
        if self.teacher_statistics == "off":
            return
        for teacher, student in self.ema_pairs:
            averages = list(teacher.trainable_variables)
            sources = list(student.trainable_variables)
            if self.teacher_statistics == "averaged":
                averages += floating(changing_statistics(teacher))
                sources += floating(changing_statistics(student))
            elif changing_statistics(teacher) and not self.teacher_forward_in_step:
                teacher(images, training=True)  # Updates the teacher's own moving statistics.
            for average, source in zip(averages, sources):
                average.assign(decay * average + (1.0 - decay) * source)

    @property
    def teacher_forward_in_step(self):
        """Whether the step itself runs the teacher in training mode, updating its statistics."""
        return False

    @property
    def step(self):
        """Number of classification updates so far: an int64 scalar, read when it is called."""
        return tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)

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
        return {metric.name: metric.result() for metric in tracked}

    def test_step(self, batch):
        """Measures every network of `networks`, using moving statistics.

        A label below 0 marks padding, which evens out the replicas' parts and is not counted.
        """
        labels = tf.maximum(batch["label"], 0)
        is_example = tf.cast(batch["label"] >= 0, tf.float32)
        measured = {}  # Metric name -> float32 [batch].
        for name, network in self.networks.items():
            logits = tf.cast(network(batch["image"], training=False), tf.float32)
            if name == "student":
                measured["loss"] = losses.cross_entropy(labels, logits)
            is_correct = tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels
            measured[accuracy_name(name)] = tf.cast(is_correct, tf.float32)
        *columns, is_example = self._gather_columns([*measured.values(), is_example])
        metrics = self._validation_metrics.value
        for name, values in zip(measured, columns):
            metrics[name].update_state(values, sample_weight=is_example)
        return {name: metric.result() for name, metric in metrics.items()}

    def _gather_columns(self, columns):
        """The columns, each [batch], of the global batch.

        Each replica counts the global batch, because their parts can hold different amounts of
        padding.
        """
        if self.replicas == 1:
            return columns
        context = tf.distribute.get_replica_context()
        table = context.all_gather(tf.stack(columns, axis=1), axis=0)
        return tf.unstack(table, num=len(columns), axis=1)


def changing_statistics(network):
    """Returns the non-trainable variables that a training pass may change, such as moving averages.

    Those of frozen layers stay as they are. An average of them would only add rounding errors.
    """
    fixed = {id(variable) for layer in nested_layers(network)
             if not layer.trainable or getattr(layer, "freeze_statistics", False)
             for variable in layer.variables}
    return [variable for variable in network.non_trainable_variables if id(variable) not in fixed]


def floating(variables):
    """Returns the floating-point variables of a list."""
    return [variable for variable in variables if tf.as_dtype(variable.dtype).is_floating]
