"""Box-prompted segmentation: the mask within a box, by SAM's decoder on any image encoder."""
