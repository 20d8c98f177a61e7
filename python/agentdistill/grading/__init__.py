"""Graders: decide whether an answer is correct."""
