"""Detection by transformers' conditional DETR on any image encoder."""
