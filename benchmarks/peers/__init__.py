"""Other implementations, each optional, beside which foldfit is timed in one run: benchmarks/side_by_side.py."""
