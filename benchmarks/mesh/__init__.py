"""A mesh of two nodes with the L7 proxy in one of four places, as `architectures` measures it."""
