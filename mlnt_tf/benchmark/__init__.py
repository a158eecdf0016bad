"""Benchmarks of the training step, the input pipeline, the neighbor search and the start-up."""
