"""Solvers: frozen dataclasses of hyperparameters with one batched call."""
