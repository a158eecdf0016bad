"""The neighbors of a stage's training examples, by the features of another stage."""

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.files import artifacts
from mlnt_tf.models import predict
from mlnt_tf.neighbors import find_neighbors


def find_stage_neighbors(stage, feature_source, network):
    """Finds the neighbors of the training examples by the features of another stage's network.

    With --neighbor_scope=batch the neighbors are searched in each batch later, so only the features
    are computed.

    Args:
      stage: the `Stage`.
      feature_source: the `Candidate` that `network` was loaded from.
      network: its network, on every device.

    Returns:
      (dict of arguments for `Stage.batches`, dict for the stage's result).
    """
    config, examples = stage.config, stage.examples

    def features():
        return predict.extract_features(
            network, stage.run.training_images(), config.neighbor_features,
            count=len(examples.train), path=stage.directory / "features.npy")

    def compute(scratch):
        try:
            table = find_neighbors(features(), num_neighbors=config.num_neighbors,
                                   backend=config.neighbor_backend, path=scratch)
        except ValueError as error:
            raise UserError(f"The neighbors of --num_neighbors={config.num_neighbors} cannot be "
                            f"found ({error}). If the network's training diverged, train again "
                            "with a lower --learning_rate and another --output_dir.") from error
        logging.info("%s: %d nearest neighbors of %d examples by %s, recall %.4f against exact "
                     "search", stage.name, config.num_neighbors, len(examples.train),
                     table.backend, table.recall)
        report = {"scope": "dataset", "backend": table.backend, "recall": table.recall}
        if stage.devices.workers == 1:
            return None, report  # The table is in the scratch file already.
        # Each worker has built its own table, and ScaNN's trees are not deterministic, so all
        # workers use the chief's table.
        return stage.devices.broadcast(np.asarray(table.indices)), report

    if config.neighbor_scope == "batch":
        return {"features": features()}, {"scope": "batch"}
    indices, report = artifacts.load_or_compute(
        stage.directory / "neighbors.npy", compute, inputs=feature_source.digest)
    return {"neighbors": indices}, report
