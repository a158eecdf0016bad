"""Runs and their stages: records, results, and the choice of the network to export."""
