"""Who judges rows that it never saw: the panel's models and the halves of the audited training."""
