"""Entropic optimal transport: problems, algorithms, plans and gradients. The door is medalign_core.solvers.sinkhorn."""
