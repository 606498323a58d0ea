"""Detection: an encoder with a feature pyramid and the head of FCOS."""
