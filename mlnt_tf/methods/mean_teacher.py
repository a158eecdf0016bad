"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017): MLNT without the inner step.

It is the control that shows what the inner step adds. Iterations, mentor and label repair are those
of MLNT; `--iterations=1` is plain mean teacher.
"""

import fractions

import keras

from mlnt_tf.meta import objective
from mlnt_tf.meta.pure_network import pure_network
from mlnt_tf.methods import mlnt
from mlnt_tf.methods.elr import ELR
from mlnt_tf.methods.gce import GCE
from mlnt_tf.methods.mlnt import candidates  # noqa: F401, used by `find`
from mlnt_tf.methods.mlnt_model import MLNT


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    del examples
    total = config.iterations * config.epochs
    if config.meta_every == 1:
        return {"mean teacher": total}
    meta = fractions.Fraction(total, config.meta_every)
    return {"cross entropy": total - meta, "mean teacher": meta}


def check(config, examples, network):
    """Raises UserError if the network cannot be trained with these flags."""
    mlnt.check_network(config, examples, network, VARIANT)


def train(run):
    """Trains the iterations without a warm-up, because no neighbors are needed."""
    mlnt.train_iterations(run, None, VARIANT)


@keras.saving.register_keras_serializable(package="mlnt_tf")
class MeanTeacher(MLNT):
    """MLNT with alpha = 0: the meta update follows the consistency loss at the weights themselves.

    J(theta) is the mean KL divergence from the teacher's predictions. No label enters it, so a
    batch needs no "neighbor_labels". A step costs 7 forward passes, against 5 + 5 M of MLNT.

    Args:
      network: as for `MLNT`.
      **kwargs: the arguments of `MLNT` that do not concern the inner step: meta_every, update_mode,
        mentor, teacher_weight and seed.

    Example:

    ```python
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = mlnt_tf.MeanTeacher(network, ema_decay=0.9)
    model.compile(optimizer="adam", meta_optimizer=0.4)
    model.fit(np.random.rand(20, 4), np.arange(20) % 3)
    ```
    """

    def __init__(self, network, **kwargs):
        super().__init__(network, **{**kwargs, "num_synthetic": 1, "inner_rate": 0.0})

    def meta_gradients(self, batch):
        images = batch["image"]
        targets = self.targets(images, self.step)
        student = pure_network(self.student,
                               jit_compile=self.compiles_parts and not self.synchronized)
        return objective.consistency_gradient(student.forward, student.weights(), images, targets,
                                              image_gradient=False)


@keras.saving.register_keras_serializable(package="mlnt_tf")
class GceMeanTeacher(GCE, MeanTeacher):
    """`MeanTeacher` with the classification loss of `GCE`."""


@keras.saving.register_keras_serializable(package="mlnt_tf")
class ElrMeanTeacher(ELR, MeanTeacher):
    """`MeanTeacher` with the classification loss of `ELR`."""


CLASSES = {"cross_entropy": MeanTeacher, "gce": GceMeanTeacher, "elr": ElrMeanTeacher}


def new_mean_teacher(config, network, *, num_examples=0, **kwargs):
    """Returns the `MeanTeacher` model that the flags ask for; see `mlnt.new_mlnt`."""
    return CLASSES[config.classification_loss](
        network, **mlnt.update_settings(config, num_examples), **kwargs)


VARIANT = mlnt.Variant(new_mean_teacher, has_meta_loss=True, uses_neighbors=False)
