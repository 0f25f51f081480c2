"""Predictions, scores, controls and the report."""
