"""LoGra-Med: a multimodal model trained by its autoregressive loss and by matching graphs of images and texts."""
