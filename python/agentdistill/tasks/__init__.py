"""Tasks, and how task sets are loaded."""
