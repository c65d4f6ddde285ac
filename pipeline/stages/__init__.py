"""The list of stages, and the audit that runs them."""
