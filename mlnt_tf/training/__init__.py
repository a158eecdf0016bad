"""Training of one model: optimizers, schedules, the EMA teacher, callbacks, checkpoints."""
