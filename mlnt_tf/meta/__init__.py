"""The mathematics of the meta update, as pure functions of a list of weights."""
