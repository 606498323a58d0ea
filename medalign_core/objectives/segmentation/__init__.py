"""Segmentation: an encoder with a U-Net decoder, by cross-entropy and Dice."""
