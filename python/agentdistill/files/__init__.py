"""Files of others: tables, corpora, trajectories in other formats; and writing a file whole or not at all."""
