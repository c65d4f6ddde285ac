"""The out-of-sample judges of the labels: the models of the panel, and the halves of the audited training."""
