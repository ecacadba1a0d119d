"""This package takes an experiment to its results: it prepares, trains, quantizes, measures and compares."""
