"""What LoGra-Med is compared with: other alignments of the same node sets, beside the same autoregressive loss."""
