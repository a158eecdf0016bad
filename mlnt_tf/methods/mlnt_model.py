"""The Keras model of MLNT: a meta update before each classification update (algorithm 1).

`mlnt_tf.methods.mlnt` trains it with a warm-up and iterations.
"""

import keras
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.meta import algorithm as meta_algorithm
from mlnt_tf.meta import objective, synthetic
from mlnt_tf.meta.pure_network import pure_network
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.models.submodels import split_network
from mlnt_tf.training import optimizer_arguments, schedules
from mlnt_tf.training.keras_internals import nested_layers
from mlnt_tf.training.keras_model import Untracked, build_optimizer
from mlnt_tf.training.networks import features_or_logits, search_in_batch


@keras.saving.register_keras_serializable(package="mlnt_tf")
class MLNT(CrossEntropy):
    """Meta-Learning based Noise-Tolerant training of a Keras network (Li et al., CVPR 2019).

    `fit` takes arrays and data sets as for any Keras model. A step sees a batch {"image", "label",
    "neighbor_labels"}: image float [batch, height, width, channels], label int32 [batch],
    neighbor_labels int32 [batch, neighbors]. Without neighbor_labels, the neighbors are the nearest
    images of the batch (of the replica's part) by the teacher's penultimate features, as in the
    paper. Two streams are passed as {"meta": batch, "classification": batch}: the meta update
    samples all of the data, the classification update only the selected examples (section 3.3).
    "weight" and "probabilities" (see `CrossEntropy`) change the classification loss only.

    All passes of a step share one random draw, so dropout drops the same units and augmentation
    layers in the network transform the images alike in each of them.

    Args:
      network: a Keras network that maps images [batch, height, width, channels] to logits
        [batch, classes].
      num_synthetic: M, the number of synthetic label sets per step. 0 is cross entropy, bit for
        bit.
      synthetic: "sampled" draws M label sets per step (the paper). "expected" takes a single inner
        step on the mean of all such sets, whatever M is (see `synthetic.expected_labels`). A step
        then costs 10 forward passes; with samples it costs 5 + 5 M.
      transfer_ratio: rho/k, the fraction of the batch that takes a neighbor's label.
      inner_rate: alpha, the step size of the inner gradient step.
      meta_order: "first" treats the inner gradient as a constant, "full" differentiates through it.
      fast_weights: the weights that the inner step moves: "all" (the paper), the "last_stage" of
        the network (see `mlnt_tf.models.submodels.split_network`) or the "head", its last layer.
        The other layers run once per step instead of M times.
      meta_every: the number of steps per meta update. The steps in between are cross entropy.
      synthetic_parallelism: the number of label sets that run side by side. A larger number needs
        more memory and does not change the result.
      inner_reduce: has an effect on several replicas only. "global" takes the inner step along the
        mean of the replicas' gradients, so the result does not depend on their number. With
        "replica", each replica uses its own gradient, which saves the all-reduces.
      update_mode: "sequential" computes the classification gradient at the weights after the meta
        update (the paper), "joint" computes both gradients at the same weights (the released code).
      mentor: a frozen network whose predictions are merged into the teacher's (eq. 12), or None.
      teacher_weight: lambda, the teacher's weight in the merged target: a number or a Keras
        schedule of the step.
      num_neighbors: k, for neighbors that are searched in the batch. A batch of k examples or fewer
        uses all others.
      seed: int. The synthetic labels are a pure function of (seed, step, m), and the order of
        arrays in `fit` is one of (seed, epoch).
      **kwargs: ema_decay and teacher_statistics, see `CrossEntropy`, and Keras's name and dtype.

    Raises:
      ValueError: an argument is out of range, the network is not built, cannot be cloned, computes
        in float16 or ends in a softmax, or `meta_order="full"` is combined with a Keras
        normalization layer whose second derivative is wrong.

    Example:

    ```python
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = mlnt_tf.MLNT(network, num_synthetic=2, ema_decay=0.99)
    model.compile(optimizer="adam", meta_optimizer=0.4)
    model.fit(np.random.rand(20, 4), np.arange(20) % 3, batch_size=10)
    ```
    """

    def __init__(self, network, *, num_synthetic=10, synthetic="sampled", transfer_ratio=0.5,
                 inner_rate=0.2, meta_order="first", fast_weights="all", meta_every=1,
                 synthetic_parallelism=1, inner_reduce="global", update_mode="sequential",
                 mentor=None, teacher_weight=0.5, num_neighbors=10, seed=0, **kwargs):
        meta_algorithm.check_arguments(
            num_synthetic=num_synthetic, synthetic=synthetic, transfer_ratio=transfer_ratio,
            meta_order=meta_order, fast_weights=fast_weights, meta_every=meta_every,
            synthetic_parallelism=synthetic_parallelism, inner_reduce=inner_reduce,
            update_mode=update_mode, num_neighbors=num_neighbors)
        if mentor is network:
            raise ValueError("The mentor must be a network of its own. "
                             "Received: the network that is trained")
        super().__init__(network, **kwargs)
        self.num_synthetic = num_synthetic
        self.synthetic = synthetic
        self.transfer_ratio = transfer_ratio
        self.inner_rate = inner_rate
        self.meta_order = meta_order
        self.fast_weights = fast_weights
        self.meta_every = meta_every
        self.synthetic_parallelism = synthetic_parallelism
        self.inner_reduce = inner_reduce
        self.update_mode = update_mode
        self.mentor = mentor
        self.teacher_weight = teacher_weight
        self.num_neighbors = num_neighbors
        self.seed = seed
        body_and_head, fast_part = None, network
        if fast_weights != "all":
            body_and_head = split_network(network, fast_weights)
            _, fast_part = body_and_head
        # None if the inner step moves all weights. The two parts share the student's weights, which
        # Keras would count twice if it tracked them.
        self.body_and_head = Untracked(body_and_head)
        if meta_order == "full" and num_synthetic:
            meta_algorithm.refuse_broken_second_order(nested_layers(fast_part))
        if self.replicas > 1 and num_synthetic and meta_every > 1:
            raise ValueError("meta_every above 1 needs a single device, because replicas cannot "
                             "synchronize in a branch of the graph. "
                             f"Received: {meta_every=} with {self.replicas} replicas")
        self.consistency_metric = keras.metrics.Mean(name="consistency")
        self._teacher_features = Untracked(features_or_logits(self.teacher))

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config["meta_optimizer"] = keras.saving.serialize_keras_object(self.meta_optimizer)
        return config

    def compile(self, optimizer=None, *, meta_optimizer=None, meta_rate=None, meta_momentum=None,
                **kwargs):
        """Configures both updates.

        Args:
          optimizer: of the classification update, see `CrossEntropy.compile`.
          meta_optimizer: of the meta update: a number or a Keras schedule, which is eta of plain
            SGD, or any Keras optimizer or its name. It excludes the next two arguments.
          meta_rate: eta, a number or a Keras schedule of the step. 0.4 by default.
          meta_momentum: of the meta update. The default 0 is the paper's plain SGD.
          **kwargs: further arguments of `CrossEntropy.compile`, for example metrics,
            learning_rate, momentum, weight_decay and jit_compile.
        """
        meta_optimizer = optimizer_arguments.meta_optimizer(
            meta_optimizer, meta_rate=meta_rate, meta_momentum=meta_momentum)
        super().compile(optimizer, **kwargs)
        self.meta_optimizer = meta_optimizer
        build_optimizer(meta_optimizer, self.student.trainable_variables)

    @property
    def teacher_forward_in_step(self):
        return self.num_synthetic > 0

    def train_step(self, batch):
        meta_batch = batch.get("meta", batch)
        classification_batch = batch.get("classification", batch)
        if not self.num_synthetic:
            return super().train_step(classification_batch)
        rates = self.rates()
        is_meta_step = self.step % self.meta_every == 0
        meta_gradients, consistency = self.meta_gradients_or_zeros(meta_batch, is_meta_step)
        if self.update_mode == "sequential":
            self.apply(self.meta_optimizer, meta_gradients)
        gradients, logits, loss = self.classification_gradients(classification_batch)
        self.apply(self.optimizer, gradients)
        if self.update_mode == "joint":
            # Last, so that the classification update's weight decay uses the old weights.
            self.apply(self.meta_optimizer, meta_gradients)
        self.update_teacher(meta_batch["image"], rates["ema_decay"])
        loss, consistency = self.reduce([loss, consistency])
        self.consistency_metric.update_state(consistency,
                                             sample_weight=tf.cast(is_meta_step, tf.float32))
        logs = self.track(classification_batch, logits, loss, consistency)
        return {**logs, "consistency": self.consistency_metric.result(), **rates}

    def meta_gradients_or_zeros(self, batch, is_meta_step):
        """`meta_gradients` in a meta step, otherwise zeros.

        The meta optimizer counts the steps in between as well, so eta's ramp runs over all steps.
        """
        if self.meta_every == 1:
            return self.meta_gradients(batch)

        def zeros():
            weights = self.student.trainable_variables
            return [tf.zeros(weight.shape) for weight in weights], tf.constant(0.0)

        return tf.cond(is_meta_step, lambda: self.meta_gradients(batch), zeros)

    def meta_gradients(self, batch):
        """The meta gradient at the student's weights (eq. 6 and 8).

        Returns:
          (list of gradients like the student's trainable variables, float32 scalar consistency
          loss).
        """
        step = self.step
        images = batch["image"]
        synthetic_labels = self.synthetic_labels(batch, step)
        num_synthetic, inner_loss = self.num_synthetic, losses.CROSS_ENTROPY
        if self.synthetic == "expected":
            num_synthetic, inner_loss = 1, losses.SOFT_CROSS_ENTROPY
        targets = self.targets(images, step)
        algorithm = meta_algorithm.choose(
            replicas=self.replicas, synchronized=self.synchronized,
            inner_reduce=self.inner_reduce, reduce=self.reduce)
        # XLA cannot compile a forward pass in which replicas synchronize.
        jit_compile = self.compiles_parts and not self.synchronized
        settings = dict(num_synthetic=num_synthetic, inner_rate=self.inner_rate,
                        order=self.meta_order, reduce=algorithm.reduce, inner_loss=inner_loss,
                        parallelism=min(self.synthetic_parallelism, num_synthetic))
        if algorithm.unrolled:
            settings["unrolled"] = True
        if self.body_and_head.value is None:
            student = pure_network(self.student, jit_compile=jit_compile)
            return algorithm.meta_gradient(student.forward, student.weights(), images, targets,
                                           synthetic_labels, **settings)
        body, head = self.body_and_head.value
        body = pure_network(body, jit_compile=jit_compile)
        head = pure_network(head, jit_compile=jit_compile)
        gradients, consistency = objective.meta_gradient_through_head(
            body.forward, head.forward, body.weights(), head.weights(), images, targets,
            synthetic_labels, gradient_of=algorithm.meta_gradient, **settings)
        # The student can list its variables in another order than its two parts.
        by_variable = {id(variable): gradient for variable, gradient
                       in zip(body.variables + head.variables, gradients)}
        gradients = [by_variable[id(variable)] for variable in self.student.trainable_variables]
        return gradients, consistency

    def synthetic_labels(self, batch, step):
        """Returns the function m -> the m-th synthetic label set of a step.

        It is int32 [batch], or float32 [batch, classes] if synthetic="expected".

        Raises:
          ValueError: the batch size is not static, and there are several replicas.
        """
        labels = batch["label"]
        neighbor_labels = self.neighbor_labels(batch)
        batch_size = labels.shape[0]
        if batch_size is None:
            if self.replicas > 1:
                raise ValueError("Several replicas need batches of a fixed size, for example from "
                                 "batch(…, drop_remainder=True). "
                                 f"Received: labels of shape {labels.shape}")
            batch_size = tf.shape(labels)[0]
        count = synthetic.transfer_count(batch_size * self.replicas, self.transfer_ratio)
        if self.synthetic == "expected":
            expected = synthetic.expected_labels(
                labels, neighbor_labels, count, num_classes=self.num_classes,
                replicas=self.replicas)
            return lambda m: expected
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group

        def label_set(m):
            return synthetic.transfer_labels(labels, neighbor_labels, count, seed=self.seed,
                                             step=step, m=m, replica=replica,
                                             replicas=self.replicas)

        return label_set

    def neighbor_labels(self, batch):
        """Returns the batch's neighbor labels, int32 [batch, neighbors], searched if necessary."""
        if "neighbor_labels" in batch:
            return batch["neighbor_labels"]
        return search_in_batch(self._teacher_features.value, batch, self.num_neighbors)

    @property
    def synchronized(self):
        """Whether the replicas synchronize within the network's forward pass."""
        return any(getattr(layer, "synchronized", False) for layer in nested_layers(self.student))

    def targets(self, images, step):
        """The target s of the consistency loss, [batch, classes]: the teacher's prediction.

        With a mentor it is merged with the mentor's prediction (eq. 12).
        """
        if self.teacher_statistics == "own":
            logits = self.teacher(images, training=True)  # Updates its own moving statistics.
        else:
            fixed = [variable.value for variable in self.teacher.non_trainable_variables]
            logits, _ = self.teacher.stateless_call(self.teacher.trainable_variables, fixed, images,
                                                    training=True)
        targets = tf.nn.softmax(tf.cast(logits, tf.float32))
        if self.mentor is not None:
            mentor_logits = self.mentor(images, training=False)
            mentor_targets = tf.nn.softmax(tf.cast(mentor_logits, tf.float32))
            teacher_weight = schedules.value_at(self.teacher_weight, step)
            targets = losses.merge_targets(targets, mentor_targets, teacher_weight)
        return tf.stop_gradient(targets)

    def rates(self):
        rates = super().rates()
        if self.num_synthetic:
            rates["meta_rate"] = tf.convert_to_tensor(self.meta_optimizer.learning_rate)
            if self.mentor is not None:
                rates["lambda"] = schedules.value_at(self.teacher_weight, self.step)
        return rates
