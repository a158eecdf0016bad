"""Meta-Learning based Noise-Tolerant training of image classifiers (Li et al., CVPR 2019).

The public names load on first use, so that a command-line mistake is told before TensorFlow is.
"""

import importlib
import os

__version__ = "0.1.0"

_HOME = {
    "MLNT": "mlnt_tf.methods.mlnt",
    "CrossEntropy": "mlnt_tf.methods.cross_entropy",
    "EmaTeacher": "mlnt_tf.training.ema",
    "CoupledSGD": "mlnt_tf.training.optimizers",
    "FusedBatchNormalization": "mlnt_tf.models.layers",
    "fuse_batch_norm": "mlnt_tf.models.layers",
    "find_neighbors": "mlnt_tf.neighbors",
    "build_network": "mlnt_tf.models.build",
    "feature_extractor": "mlnt_tf.models.surgery",
    "export_saved_model": "mlnt_tf.serving.export",
    "Config": "mlnt_tf.config",
    "UserError": "mlnt_tf.config",
}
__all__ = ["__version__", *_HOME]


def check_keras_backend():
    """Makes keras run on TensorFlow, whatever keras.json says.

    Raises:
      UserError: KERAS_BACKEND names another backend, or keras was imported with one.
    """
    import sys

    from mlnt_tf.config import UserError

    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "backend"):
        backend = sys.modules["keras"].backend.backend()
    if backend != "tensorflow":
        raise UserError(f"KERAS_BACKEND={backend}: mlnt_tf runs on TensorFlow alone; "
                        "set KERAS_BACKEND=tensorflow or unset it.")


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'mlnt_tf' has no attribute {name!r}")
    check_keras_backend()
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
    return sorted(__all__)
