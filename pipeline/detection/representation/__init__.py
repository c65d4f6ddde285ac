"""Evidence from the model's features early in training: neighbours, distances to classes, near-duplicates."""
