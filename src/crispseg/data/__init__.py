"""Training data: pairs, composites, coarse masks."""
