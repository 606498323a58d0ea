"""Dude: shared and class-specific contexts, matched to visual tokens by unbalanced optimal transport."""
