"""Datasets that are made once on disk, in TFDS's format, and then read at random access."""
