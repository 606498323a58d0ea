"""Classification: an encoder with fully connected layers, tuned whole or with the encoder frozen."""
