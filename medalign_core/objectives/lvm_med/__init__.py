"""LVM-Med: self-supervision by second-order graph matching between two views of a batch."""
