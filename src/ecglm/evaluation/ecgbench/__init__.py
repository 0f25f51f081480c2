"""ECGBench, PULSE's nine test sets (arXiv 2410.19008): preparing, scoring in two modes, reporting."""
