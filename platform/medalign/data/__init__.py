"""Corpora: prepared by Ray Data, described by a manifest, streamed in an order that is a pure function."""
