"""This machine, read into data points."""
