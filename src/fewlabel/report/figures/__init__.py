"""Figures, a file a family; what all share is in `style`."""
