"""Objectives and the thin Trainer."""
