"""Answerers: every kind of model behind one face, for benchmarks that ask about pictures or recordings."""
