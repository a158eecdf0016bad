"""The transition matrix T of a run: injected, counted, from a file or estimated."""

import numpy as np
import tensorflow as tf
from absl import logging
from matplotlib.figure import Figure

from mlnt_tf.config import UserError
from mlnt_tf.data import noise
from mlnt_tf.files import artifacts, atomic
from mlnt_tf.labels import confusion
from mlnt_tf.models import predict

MAX_TICK_LABELS = 20  # Above this number of classes, a plot leaves out their names.


def matrix_for_run(run, train_baseline):
    """Returns T as --transition_matrix asks, and stores it in transition.npy and transition.png.

    If the true matrix is known, its difference from T is added to `run.report`.

    Args:
      run: the `Run`.
      train_baseline: function of the run that trains a stage of cross entropy and returns it. It is
        only called if T is estimated. The stage's best student then predicts.

    Returns:
      float64 [classes, classes], p(given | true) with one row per true class.
    """
    source = matrix_source(run.config, run.examples)
    true = true_matrix(run.examples)
    inputs = [run.inputs, source]
    stage = None
    if source == "estimated":
        stage = train_baseline(run)
        inputs.append(artifacts.file_digest(stage.network_path("student")))

    def compute(scratch):
        del scratch
        if source == "true":
            return true
        if source == "estimated":
            images = run.training_images()
            probabilities = predict.predict_probabilities(stage.load_best("student"), images)
            return confusion.estimate_by_anchors(probabilities)
        return read_matrix_file(source, run.examples)

    matrix, _ = artifacts.load_or_compute(run.path / "transition.npy", compute,
                                          inputs=artifacts.digest_of(*inputs))
    run.report["transition"] = compare_matrices(source, matrix, true)
    plot_for_run(run, source, matrix, true)
    return matrix


def compare_matrices(source, matrix, true):
    """Logs the mean difference from the true matrix. Returns the entry of results.json.

    Args:
      source: str, see `matrix_source`.
      matrix: float64 [classes, classes].
      true: float64 [classes, classes], or None if it is not known.
    """
    report = {"source": source, "mean_absolute_difference": None, "frobenius_difference": None}
    if true is not None:
        report["mean_absolute_difference"] = float(np.abs(matrix - true).mean())
        report["frobenius_difference"] = float(np.linalg.norm(matrix - true))
        logging.info("transition matrix (%s): mean absolute difference from the true one %.4f",
                     source, report["mean_absolute_difference"])
    return report


def true_matrix(examples):
    """Returns the matrix of the injected noise, else the counted one. None if neither is known."""
    if examples.injected_matrix is not None:
        return examples.injected_matrix
    train = examples.train
    return confusion.true_matrix(train.true_labels, train.labels, len(examples.class_names))


def matrix_source(config, examples):
    """Returns "true", "estimated" or the path of a file.

    "auto" becomes "true" if this project injects the noise, else "estimated".
    """
    if config.transition_matrix != "auto":
        return config.transition_matrix
    return "true" if examples.injected_matrix is not None else "estimated"


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step, including a stage that estimates T."""
    epochs = config.epochs
    if matrix_source(config, examples) == "estimated":
        epochs += config.baseline_epochs
    return {"cross entropy": epochs}


def check(config, examples):
    """Raises UserError if T is not available, or excludes a given label of a training example."""
    source = matrix_source(config, examples)
    if source == "true" and true_matrix(examples) is None:
        raise UserError("--transition_matrix=true needs the true labels, which are not known for "
                        "this data set. Use --transition_matrix=estimated or a file.")
    if source in ("true", "estimated"):
        return
    matrix = read_matrix_file(source, examples)
    labels = examples.train.labels
    impossible = labels[matrix.sum(axis=0)[labels] == 0]
    if len(impossible):
        name = examples.class_names[impossible[0]]
        raise UserError(f"--transition_matrix={source} gives the label {name} probability 0, but "
                        f"{(labels == impossible[0]).sum()} training examples have it. Put a "
                        "positive number into its column.")


def read_matrix_file(path, examples):
    """Reads T from a file. Raises UserError if it is not a transition matrix of these classes."""
    flag = f"--transition_matrix={path}"
    return noise.read_matrix(path, len(examples.class_names), flag=flag)


def plot_for_run(run, source, matrix, true):
    """Writes transition.png, and the same image for TensorBoard."""
    matrices = {source: matrix}
    if true is not None:
        matrices["true"] = true
    path = run.path / "transition.png"
    plot_matrices(path, matrices, run.examples.class_names)
    image = tf.io.decode_png(path.read_bytes(), channels=3)
    with tf.summary.create_file_writer(str(run.path / "transition")).as_default():
        tf.summary.image("transition matrix", image[None], step=0)


def plot_matrices(path, matrices, class_names):
    """Writes a PNG file with one heat map per matrix, side by side.

    Args:
      path: pathlib.Path of the file.
      matrices: dict of titles to float [classes, classes].
      class_names: sequence of str.
    """
    figure = Figure(figsize=(5 * len(matrices) + 1, 4.6), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, matrix) in zip(panels, matrices.items()):
        heat_map = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        axes.set(title=title, xlabel="given", ylabel="true")
        if len(class_names) <= MAX_TICK_LABELS:
            axes.set_xticks(range(len(class_names)), class_names, rotation=90)
            axes.set_yticks(range(len(class_names)), class_names)
    figure.colorbar(heat_map, ax=panels, label="p(given | true)")
    with atomic.replacing(path) as scratch:
        figure.savefig(scratch, format="png")
