"""The model interface, and one implementation for each engine."""
