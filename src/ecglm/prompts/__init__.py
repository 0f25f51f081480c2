"""Conversation and segments → Example → batch."""
