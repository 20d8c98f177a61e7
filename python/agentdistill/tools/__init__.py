"""The tools that a model's code can call."""
