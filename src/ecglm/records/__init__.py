"""Raw recordings → Record, one file per source."""
