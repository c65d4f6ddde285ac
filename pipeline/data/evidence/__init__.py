"""What models of the user's own say about the rows: embeddings and class probabilities, in the order of the rows."""
