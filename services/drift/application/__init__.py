"""The use cases of drift: plans, windows and signals."""
