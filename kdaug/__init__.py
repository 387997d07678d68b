"""kdaug: from seed tasks and a teacher to a dataset and a student."""

__version__ = "0.1.0"
