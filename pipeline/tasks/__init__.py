"""What a model learns to predict: classes, numbers or sets of labels, a file each."""
