"""Training of a student on trajectories: examples, settings, trainer, and the files beside the weights."""
