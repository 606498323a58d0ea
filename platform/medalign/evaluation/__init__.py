"""Evaluation tasks: pure functions over (model, batches), and the thin shells that run them over a corpus."""
