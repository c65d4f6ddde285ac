"""Per-example gradients of one layer, kept as factors.

All files here use one tensor layout. The inputs a of a layer are ``[batch, positions, in]``; a bias counts as one more
input that is always 1. The output gradients g are the gradients of the loss with respect to the layer's outputs,
``[batch, positions, out]``. An MLP has one position. The positions of a convolution are the places of its kernel, and
those of a sequence are its tokens.

The gradient of an example is the matrix G = Σ_positions g aᵀ, ``[out, in]``. It is formed for a slice of the batch at a
time, if at all. The Kronecker factors of a layer are A = E[a aᵀ] and S = E[g gᵀ], their eigenvectors Q_A and Q_S.
"""
