"""Export of a network as a SavedModel that takes encoded images."""
