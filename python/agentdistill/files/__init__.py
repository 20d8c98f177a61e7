"""How are tables, corpora and other programs' trajectories read and written, and files replaced atomically?"""
