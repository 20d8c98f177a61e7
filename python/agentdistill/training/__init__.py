"""Training of a student on trajectories: examples, settings, trainer, and what lies beside the weights."""
