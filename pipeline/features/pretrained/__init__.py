"""Texts and images as pretrained encoders see them: the models, what they have made, and the kinds of features."""
