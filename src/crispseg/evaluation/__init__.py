"""Coarse and refined masks of whole folders against the truth."""
