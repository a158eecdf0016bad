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

ESTIMATES = ("estimated", "anchors")  # Sources that need the predictions of a trained network.
MAX_TICK_LABELS = 20  # Above this number of classes, a plot leaves out their names.


def matrix_for_run(run, train_baseline, *, refit=None):
    """Returns T as --transition_matrix asks, and stores it in transition.npy and transition.png.

    If the true matrix is known, its difference from T is added to `run.report`.

    Args:
      run: the `Run`.
      train_baseline: function of the run that trains a stage of cross entropy and returns it. It is
        only called if T is estimated from its predictions.
      refit: function of the run and a first estimate that trains a stage with it and returns the
        stage. With --transition_matrix=estimated, T is then estimated once more, from its
        predictions.

    Returns:
      float64 [classes, classes], p(given | true) with one row per true class.
    """
    source = matrix_source(run.config, run.examples)
    true = true_matrix(run.examples)
    path = run.path / "transition.npy"
    if source in ESTIMATES:
        stage = train_baseline(run)
        if source == "estimated" and refit is not None:
            first = estimate(run, stage, source, run.path / "first_transition.npy")
            stage = refit(run, first)
        matrix = estimate(run, stage, source, path)
    else:
        matrix, _ = artifacts.load_or_compute(
            path, lambda scratch: given_matrix(run, source, true),
            inputs=artifacts.digest_of(run.inputs, source))
    run.report["transition"] = compare_matrices(source, matrix, true)
    plot_for_run(run, source, matrix, true)
    return matrix


def estimate(run, stage, source, path):
    """Estimates T from the predictions of a stage's best network for the training images.

    Args:
      run: the `Run`.
      stage: a finished `Stage`, trained on the given labels.
      source: "anchors", which uses the student as its authors do, or "estimated", which uses the
        confident joint of the teacher.
      path: pathlib.Path that stores the result.

    Returns:
      float64 [classes, classes].
    """
    name = "student"
    if source == "estimated" and "teacher" in stage.result:
        name = "teacher"

    def compute(scratch):
        del scratch
        network = stage.load_network(name)
        probabilities = predict.predict_probabilities(network, run.training_images())
        if source == "anchors":
            return confusion.estimate_by_anchors(probabilities)
        return confusion.estimate_by_confident_joint(run.examples.train.labels, probabilities)

    inputs = artifacts.digest_of(run.inputs, source,
                                 artifacts.file_digest(stage.network_path(name)))
    return artifacts.load_or_compute(path, compute, inputs=inputs)[0]


def given_matrix(run, source, true):
    """Returns the matrix of a source that needs no training: "true", "probe" or a file."""
    if source == "true":
        return true
    if source == "probe":
        return run.probe.transition_matrix
    return read_matrix_file(source, run.examples)


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
    """Returns "true", "estimated", "anchors", "probe" or the path of a file.

    "auto" becomes "true" if this project injects the noise, else "estimated".
    """
    if config.transition_matrix != "auto":
        return config.transition_matrix
    return "true" if examples.injected_matrix is not None else "estimated"


def planned_epochs(config, examples, *, refits=0):
    """Returns the epochs of each kind of step, including the stages that estimate T.

    Args:
      config: a Config.
      examples: `Examples`.
      refits: int, number of stages that --transition_matrix=estimated adds.
    """
    epochs = config.epochs
    source = matrix_source(config, examples)
    if source in ESTIMATES:
        epochs += config.baseline_epochs
    if source == "estimated":
        epochs += refits * config.epochs
    return {"cross entropy": epochs}


def check(config, examples):
    """Raises UserError if T is not available, or excludes a given label of a training example."""
    source = matrix_source(config, examples)
    if source == "true" and true_matrix(examples) is None:
        raise UserError("--transition_matrix=true needs the true labels, which are not known for "
                        "this data set. Use --transition_matrix=estimated or a file.")
    if source == "probe" and config.initial_head != "probe":
        raise UserError("--transition_matrix=probe takes T from the probe that "
                        f"--initial_head=probe fits, but --initial_head={config.initial_head}. Set "
                        "both, or use --transition_matrix=estimated.")
    if source in ("true", "probe", *ESTIMATES):
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
            # A class name may contain the dollar signs of Matplotlib's formulas.
            axes.set_xticks(range(len(class_names)), class_names, rotation=90, parse_math=False)
            axes.set_yticks(range(len(class_names)), class_names, parse_math=False)
    figure.colorbar(heat_map, ax=panels, label="p(given | true)")
    with atomic.replacing(path) as scratch:
        figure.savefig(scratch, format="png")
