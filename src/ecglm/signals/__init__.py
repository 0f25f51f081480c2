"""Record → clean segments."""
