"""The kinds of features: a file for each, whose name is its word in `data.features`."""
