"""Segment → what the model reads, one file per way."""
