"""Per-example gradients of one layer, kept as factors.

One tensor layout everywhere: layer inputs are ``[batch, positions, in]`` (a bias counts as one more input
that is always 1) and gradients of the loss with respect to the layer's outputs are ``[batch, positions,
out]``. An MLP has positions = 1; a convolution's positions are the places of its kernel, a sequence's its
tokens. An example's gradient is the matrix G = Σ_positions g aᵀ of shape ``[out, in]`` and is formed only in
slices, if at all.
"""
