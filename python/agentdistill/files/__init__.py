"""Read and write tables, corpora and other programs' trajectories, and replace files atomically."""
