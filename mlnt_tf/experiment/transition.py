"""The transition matrix of a run: as it was drawn, from a file or estimated."""

import numpy as np
import tensorflow as tf
from absl import logging
from matplotlib.figure import Figure

from mlnt_tf.config import UserError
from mlnt_tf.data import noise
from mlnt_tf.files import artifacts, atomic
from mlnt_tf.labels.confusion import estimate_by_anchors, true_matrix
from mlnt_tf.models import predict


def matrix_for_run(run, train_baseline):
    """T as --transition_matrix asks, in transition.npy and transition.png, beside the true one where that is known.

    Estimating it takes a stage of cross entropy, whose best validated network predicts.

    What results.json says of it goes into `run.report`.

    Args:
      run: the `Run`.
      train_baseline: function of the run that trains a stage of cross entropy and returns it.

    Returns:
      T, float64 [classes, classes] with a row for each true class.
    """
    source, true = matrix_source(run.config, run.examples), true_matrix(run.examples)
    if source == "estimated":
        stage = train_baseline(run)

    inputs = [run.inputs, source]
    if source == "estimated":
        inputs.append(artifacts.file_digest(stage.network_path("student")))

    def compute(scratch):
        del scratch
        if source == "true":
            return true
        if source == "estimated":
            return estimate_by_anchors(predict.predict_probabilities(stage.network("student"), run.training_images()))
        return read_matrix_file(source, run.examples)

    matrix, _ = artifacts.load_or_compute(run.path / "transition.npy", compute, inputs=artifacts.digest_of(*inputs))
    report = {"source": source, "mean_absolute_difference": None, "frobenius_difference": None}
    if true is not None:
        report["mean_absolute_difference"] = float(np.abs(matrix - true).mean())
        report["frobenius_difference"] = float(np.linalg.norm(matrix - true))
        logging.info("transition matrix (%s): its entries lie %.4f from the true ones in the mean", source,
                     report["mean_absolute_difference"])
    if not (run.path / "transition.png").exists():
        plot_matrices(run.path / "transition.png", {source: matrix} | ({} if true is None else {"true": true}),
             run.examples.class_names)
        with tf.summary.create_file_writer(str(run.path / "transition")).as_default():
            tf.summary.image("transition matrix", tf.io.decode_png(
                (run.path / "transition.png").read_bytes(), channels=3)[None], step=0)
    run.report["transition"] = report
    return matrix


def matrix_source(config, examples):
    """Where T comes from: "true", "estimated" or a file; auto takes the true one where the noise is drawn here."""
    if config.transition_matrix == "auto":
        return "true" if examples.injected_matrix is not None else "estimated"
    return config.transition_matrix


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step, those of the stage that estimates T included."""
    estimated = matrix_source(config, examples) == "estimated"
    return {"cross entropy": config.epochs + (config.baseline_epochs if estimated else 0)}


def check(config, examples):
    """Raises UserError unless T can be had, and gives every label in training some probability."""
    source = matrix_source(config, examples)
    if source == "true" and true_matrix(examples) is None:
        raise UserError("--transition_matrix=true: the true labels of this data set are not known; take estimated or a "
                        "file.")
    if source in ("true", "estimated"):
        return
    matrix = read_matrix_file(source, examples)
    never = np.flatnonzero(matrix.sum(axis=0)[examples.train.labels] == 0)
    if len(never):
        raise UserError(f"--transition_matrix={source} lets no class be labelled "
                        f"{examples.class_names[examples.train.labels[never[0]]]}, as {len(never)} training examples "
                        "are: give its column a probability above 0.")


def read_matrix_file(path, examples):
    return noise.read_matrix(path, len(examples.class_names), flag=f"--transition_matrix={path}")


def plot_matrices(path, matrices, class_names):
    """A .png with a heat map of each matrix, {title: [classes, classes]}."""
    figure = Figure(figsize=(5 * len(matrices) + 1, 4.6), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, matrices.items()):
        image = axis.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        axis.set(title=title, xlabel="given", ylabel="true")
        if len(class_names) <= 20:
            axis.set_xticks(range(len(class_names)), class_names, rotation=90)
            axis.set_yticks(range(len(class_names)), class_names)
    figure.colorbar(image, ax=axes, label="p(given | true)")
    with atomic.replacing(path) as scratch:
        figure.savefig(scratch, format="png")
