"""The run store that workers publish into and that everybody who waits for a run listens to."""

__version__ = "0.1.0"
