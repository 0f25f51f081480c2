"""ECG encoders, one file each."""
