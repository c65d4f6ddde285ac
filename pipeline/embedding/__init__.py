"""Features that pretrained encoders make: computed on the workers before `prepare`, and tried by `check`."""
