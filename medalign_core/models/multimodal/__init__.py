"""Multimodal models: a vision tower, a projector and a causal language model that reads image tokens among words."""
