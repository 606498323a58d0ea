"""Small tensor operations: draws, k-NN graphs, message passing, location grids."""
