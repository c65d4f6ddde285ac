"""The model under attribution: what is captured from it, which parameters are covered, in which modes it runs."""
