"""What `benchmarks/speed.py` measures, a file a subject."""
