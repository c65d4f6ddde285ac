"""What is said before an audit runs: mistakes in config and data, expected findings, time, memory and power."""
