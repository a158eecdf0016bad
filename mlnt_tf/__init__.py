"""Meta-Learning based Noise-Tolerant training of image classifiers (Li et al., CVPR 2019).

The public names are imported on first use, so that a mistake on the command line is reported before
TensorFlow is imported.
"""

import importlib
import os
import sys

__version__ = "0.2.0"

_MODULES = {
    "MLNT": "mlnt_tf.methods.mlnt_model",
    "MeanTeacher": "mlnt_tf.methods.mean_teacher",
    "CrossEntropy": "mlnt_tf.methods.cross_entropy",
    "EmaTeacher": "mlnt_tf.training.ema",
    "CoupledSGD": "mlnt_tf.training.optimizers",
    "FusedBatchNormalization": "mlnt_tf.models.layers",
    "fuse_batch_norm": "mlnt_tf.models.layers",
    "find_neighbors": "mlnt_tf.neighbors",
    "with_neighbors": "mlnt_tf.neighbors.labels",
    "logits_of": "mlnt_tf.models.logits",
    "find_label_issues": "mlnt_tf.labels.issues",
    "run": "mlnt_tf.python_api",
    "build_network": "mlnt_tf.models.build",
    "feature_extractor": "mlnt_tf.models.submodels",
    "export_saved_model": "mlnt_tf.serving.export",
    "Config": "mlnt_tf.config",
    "UserError": "mlnt_tf.config",
}
__all__ = ["__version__", *_MODULES]
# Modules with classes that `keras.models.load_model` must know.
_REGISTERED = ("mlnt_tf.methods.mlnt", "mlnt_tf.methods.mean_teacher", "mlnt_tf.methods.forward",
               "mlnt_tf.models.layers", "mlnt_tf.training.schedules")


def check_keras_backend():
    """Makes Keras use the TensorFlow backend, whatever keras.json says.

    Raises:
      UserError: KERAS_BACKEND names another backend, or Keras was imported with another one.
    """
    from mlnt_tf.config import UserError

    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "backend"):
        backend = sys.modules["keras"].backend.backend()
    if backend != "tensorflow":
        raise UserError(f"KERAS_BACKEND={backend} is not supported, because mlnt_tf runs on "
                        "TensorFlow. Set KERAS_BACKEND=tensorflow, or unset it.")


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'mlnt_tf' has no attribute {name!r}")
    check_keras_backend()
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted(__all__)


# Without Keras there is nothing to load, and importing it would take seconds.
if hasattr(sys.modules.get("keras"), "backend") and sys.modules["keras"].backend.backend() == (
        "tensorflow"):
    for _module in _REGISTERED:
        importlib.import_module(_module)
