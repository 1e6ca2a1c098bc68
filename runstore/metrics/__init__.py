"""What a process tells Prometheus: the table of metrics, what was counted, and how it is given out."""

from runstore.metrics.board import Board
from runstore.metrics.numbers import Numbers
from runstore.metrics.samples import Sample
from runstore.metrics.server import MetricsServer

__all__ = ["Board", "MetricsServer", "Numbers", "Sample"]
