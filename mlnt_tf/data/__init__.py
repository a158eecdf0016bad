"""Training data: splits, noise, labels to train on, preprocessing and the input pipeline."""
