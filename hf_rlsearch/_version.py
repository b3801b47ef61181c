"""Holds the version of the package, which the build reads without importing anything else."""

__version__ = "0.1.0"
