"""Metrics, exact over a data set: counts are accumulated, nothing is averaged per batch or image."""
