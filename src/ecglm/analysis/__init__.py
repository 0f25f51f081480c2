"""Looking into tokens and models: distributions, encoding tracks, round trips, attention."""
