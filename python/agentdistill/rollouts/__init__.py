"""Rollouts: from a task to a graded trajectory, and many of them at once."""
