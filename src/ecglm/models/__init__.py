"""Encoder, connector, language model, and the one ELM."""
