"""Geometry and merging of images too big to hold; is handed a callable, knows no network."""
