"""Dual encoders: any image tower and any text tower with projections into one space."""
