"""The train loop: engine (DeepSpeed), session (who runs it) and the loop itself, which imports neither Ray nor DeepSpeed."""
