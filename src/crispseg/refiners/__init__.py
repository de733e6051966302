"""Image and mask in, better mask out."""
