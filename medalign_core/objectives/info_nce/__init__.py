"""InfoNCE between two views of a micro-batch: the SimCLR baseline."""
