"""Training: the engine (DeepSpeed), the session (who runs it) and the loop, which imports neither Ray nor DeepSpeed."""
