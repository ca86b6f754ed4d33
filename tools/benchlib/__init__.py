"""What tools/bench.py measures, and the sides that it measures."""
