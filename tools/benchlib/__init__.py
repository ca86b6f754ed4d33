"""What tools/bench.py measures, and the two sides that it measures."""
