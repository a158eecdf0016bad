"""MLNT: before each classification update, a meta update that keeps the network noise-tolerant (paper algorithm 1)."""

import functools
import itertools

import keras
import tensorflow as tf

from mlnt_tf import losses, schedules
from mlnt_tf.meta import objective, replicated, synthetic
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.models.registry import split_network
from mlnt_tf.optimizer import CoupledSGD

SECOND_ORDER_BROKEN = (keras.layers.BatchNormalization, keras.layers.LayerNormalization,
                       keras.layers.GroupNormalization)


class MLNT(CrossEntropy):
    """Meta-Learning based Noise-Tolerant training around a Keras network (Li et al., CVPR 2019).

    Args:
      network: a Keras network that maps images [batch, height, width, channels] to logits [batch, classes].
      num_synthetic: M, synthetic label sets of a step; 0 is cross entropy, bit for bit.
      transfer_ratio: rho/k, the share of the batch that takes a neighbour's label.
      inner_rate: alpha, the step size of the inner gradient step.
      meta_order: "first" takes the inner gradient as a constant, "full" differentiates through it.
      fast_weights: what the inner step moves: "all" (the paper), the "last_stage" of the network (see
        `mlnt_tf.models.registry.split_network`), or the "head", its last layer; what it leaves alone is passed
        through once, not M times.
      meta_every: a meta update every so many steps; the others are cross entropy.
      synthetic_parallelism: how many of the M run side by side; the same numbers in more memory.
      inner_reduce: on several replicas, "global" takes the inner step by the mean of their gradients, so that their
        number changes nothing; "replica" spares the M all-reduces: each takes its own, by its share of the batch.
      update_mode: "sequential" takes the classification gradient at the weights after the meta update (the paper),
        "joint" takes both at the same weights (the released code).
      mentor: a network, left as it is, whose predictions are merged into the teacher's (eq. 12), or None.
      teacher_weight: lambda, the teacher's share of the merged target: a number or a Keras schedule of the step.
      seed: of the synthetic labels, which are a pure function of (seed, step, m).

    A batch is {"id", "image", "label", "neighbor_labels"}: image float [batch, height, width, channels], label int32
    [batch], neighbor_labels int32 [batch, num_neighbors]; {"meta": batch, "classification": batch} takes the two
    updates from two streams (section 3.3: the meta loss samples all the data, the other the filtered ones).

    Raises:
      ValueError: an argument out of its range, a network that is not built or cannot be cloned, or
        `meta_order="full"` with a Keras normalization layer whose second derivative is wrong.
    """

    def __init__(self, network, *, num_synthetic=10, transfer_ratio=0.5, inner_rate=0.2, meta_order="first",
                 fast_weights="all", meta_every=1, synthetic_parallelism=1, inner_reduce="global",
                 update_mode="sequential", mentor=None, teacher_weight=0.5, seed=0, **kwargs):
        if num_synthetic < 0 or not 0 <= transfer_ratio <= 1:
            raise ValueError("num_synthetic must be at least 0 and transfer_ratio in [0, 1]. "
                             f"Received: num_synthetic={num_synthetic}, transfer_ratio={transfer_ratio}")
        if meta_order not in ("first", "full"):
            raise ValueError(f"meta_order must be 'first' or 'full'. Received: meta_order={meta_order!r}")
        if fast_weights not in ("all", "last_stage", "head"):
            raise ValueError(f"fast_weights must be 'all', 'last_stage' or 'head'. Received: {fast_weights=}")
        if meta_every < 1 or synthetic_parallelism < 1:
            raise ValueError("meta_every and synthetic_parallelism must be at least 1. "
                             f"Received: {meta_every=}, {synthetic_parallelism=}")
        if update_mode not in ("sequential", "joint"):
            raise ValueError(f"update_mode must be 'sequential' or 'joint'. Received: update_mode={update_mode!r}")
        if inner_reduce not in ("global", "replica"):
            raise ValueError(f"inner_reduce must be 'global' or 'replica'. Received: inner_reduce={inner_reduce!r}")
        if mentor is network:
            raise ValueError("the mentor must be a network of its own. Received: the network that is trained")
        super().__init__(network, **kwargs)
        self.num_synthetic, self.transfer_ratio, self.inner_rate = num_synthetic, transfer_ratio, inner_rate
        self.meta_order, self.update_mode, self.seed = meta_order, update_mode, seed
        self.meta_every, self.synthetic_parallelism = meta_every, synthetic_parallelism
        parts = [network] if fast_weights == "all" else split_network(network, fast_weights)
        if meta_order == "full" and num_synthetic:
            _refuse_broken_second_order(parts[-1])
        self.parts = lambda: parts  # not as they are: Keras would take their weights for more of its own
        self.teacher_weight, self.mentor, self.inner_reduce = teacher_weight, mentor, inner_reduce
        if self.replicas > 1 and num_synthetic and meta_every > 1:
            raise ValueError("meta_every above 1 runs on one device: replicas cannot meet in a branch of the graph. "
                             f"Received: {meta_every=} under a strategy of {self.replicas} replicas")
        self.consistency_metric = keras.metrics.Mean(name="consistency")

    def compile(self, *, learning_rate, meta_rate=0.4, momentum=0.9, weight_decay=0.0, meta_momentum=0.0, **kwargs):
        """Sets both updates.

        Args:
          learning_rate: beta, a number or a Keras schedule of the step.
          meta_rate: eta, a number or a Keras schedule of the step.
          momentum, weight_decay: of the classification update; the decay is coupled.
          meta_momentum: of the meta update; 0 is the paper's plain SGD.
          **kwargs: jit_compile, steps_per_execution, run_eagerly, as `keras.Model.compile`.
        """
        super().compile(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay, **kwargs)
        self.meta_optimizer = CoupledSGD(meta_rate, momentum=meta_momentum, name="meta_sgd")
        self.meta_optimizer.build(self.student.trainable_variables)

    @property
    def teacher_forward_in_step(self):
        return self.num_synthetic > 0

    def train_step(self, batch):
        meta, classification = (batch["meta"], batch["classification"]) if "meta" in batch else (batch, batch)
        if not self.num_synthetic:
            return super().train_step(classification)
        rates, theta, turn = self.rates(), self.student.trainable_variables, self.step % self.meta_every == 0
        if self.meta_every == 1:
            meta_gradients, consistency = self.meta_gradients(meta)
        else:  # the optimizer steps by zero in between: the ramp of eta is one over all steps
            meta_gradients, consistency = tf.cond(turn, lambda: self.meta_gradients(meta), lambda: (
                [tf.zeros(weight.shape) for weight in theta], tf.constant(0.0)))
        if self.update_mode == "sequential":
            self.apply(self.meta_optimizer, meta_gradients)
        gradients, logits, loss = self.classification_gradients(classification)
        self.apply(self.optimizer, gradients)
        if self.update_mode == "joint":  # last, so that the weight decay is that of the old weights too
            self.apply(self.meta_optimizer, meta_gradients)
        self.update_teacher(meta["image"], rates["ema_decay"])
        loss, consistency = self.reduce([loss, consistency])
        self.consistency_metric.update_state(consistency, sample_weight=tf.cast(turn, tf.float32))
        logs = self.track(classification, logits, loss, consistency)
        return {**logs, "consistency": self.consistency_metric.result(), **rates}

    def meta_gradients(self, batch):
        """The meta gradient at the student's weights, and the consistency loss (eq. 6, 8): (gradients, scalar)."""
        step = self.step
        images, labels, neighbor_labels = batch["image"], batch["label"], batch["neighbor_labels"]
        if labels.shape[0] is None:
            raise ValueError("the batches must have a fixed size, as by batch(…, drop_remainder=True): rho is a share "
                             f"of it. Received: labels of shape {labels.shape}")
        count = synthetic.transfer_count(labels.shape[0] * self.replicas, self.transfer_ratio)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        functions, thetas = zip(*map(_as_function, self.parts()))
        if self.compiles_parts and not self.synchronized:
            functions = [tf.function(function, jit_compile=True) for function in functions]
        inner = {"reduce": lambda gradients: gradients,
                 "parallelism": min(self.synthetic_parallelism, self.num_synthetic)}
        meta_gradient = objective.meta_gradient
        if self.replicas > 1 and self.inner_reduce == "global":
            inner["reduce"], meta_gradient = self.reduce, replicated.meta_gradient
        if self.replicas > 1 and self.synchronized:  # they meet in the forward pass, so there may be no loop at all
            inner["parallelism"], meta_gradient = self.num_synthetic + 1, objective.meta_gradient
        if len(functions) == 2:
            meta_gradient = functools.partial(objective.meta_gradient_through_head, gradient_of=meta_gradient)
        gradients, consistency = meta_gradient(
            *functions, *([tf.convert_to_tensor(variable.value) for variable in theta] for theta in thetas), images,
            self.targets(images, step),
            lambda m: synthetic.transfer_labels(labels, neighbor_labels, count, seed=self.seed, step=step, m=m,
                                                replica=replica, replicas=self.replicas),
            num_synthetic=self.num_synthetic, inner_rate=self.inner_rate, order=self.meta_order, **inner)
        gradient = {id(variable): part for variable, part in zip(itertools.chain(*thetas), gradients)}
        return [gradient[id(variable)] for variable in self.student.trainable_variables], consistency

    @property
    def synchronized(self):
        """Whether replicas meet within the network's forward pass."""
        return any(getattr(layer, "synchronized", False)
                   for layer in self.student._flatten_layers(include_self=False, recursive=True))

    def targets(self, images, step):
        """What the network shall agree with: the teacher, merged with the mentor if there is one; [batch, classes]."""
        if self.teacher_statistics == "own":
            logits = self.teacher(images, training=True)  # its own moving statistics come from here
        else:
            fixed = [variable.value for variable in self.teacher.non_trainable_variables]
            logits = self.teacher.stateless_call(self.teacher.trainable_variables, fixed, images, training=True)[0]
        targets = tf.nn.softmax(tf.cast(logits, tf.float32))
        if self.mentor is not None:
            mentor = tf.nn.softmax(tf.cast(self.mentor(images, training=False), tf.float32))
            targets = losses.merge_targets(targets, mentor, schedules.value(self.teacher_weight, step))
        return tf.stop_gradient(targets)

    def rates(self):
        rates = super().rates()
        if self.num_synthetic:
            rates["meta_rate"] = tf.convert_to_tensor(self.meta_optimizer.learning_rate)
            if self.mentor is not None:
                rates["lambda"] = schedules.value(self.teacher_weight, self.step)
        return rates


def _as_function(network):
    """A network as a function of its trainable weights, and these: batch statistics are used, nothing is written."""
    fixed = [variable.value for variable in network.non_trainable_variables]

    def forward(weights, images):
        return network.stateless_call(weights, fixed, images, training=True)[0]

    return forward, network.trainable_variables


def _refuse_broken_second_order(network):
    for layer in network._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, SECOND_ORDER_BROKEN) and not getattr(layer, "fused", False):
            raise ValueError(
                f"meta_order='full' needs second derivatives, which Keras's {type(layer).__name__} gets wrong (it "
                "stops the gradient of the mean): use mlnt_tf.FusedBatchNormalization, channels last, or "
                f"meta_order='first'. Received: layer {layer.name!r}")
