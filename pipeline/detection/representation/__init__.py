"""What the model's features early in training say about rows: neighbours, classes, near-duplicates."""
