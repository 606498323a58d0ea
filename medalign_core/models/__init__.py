"""Image and text towers, built on transformers."""
