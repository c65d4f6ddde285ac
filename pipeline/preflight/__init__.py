"""The pre-flight of an audit: mistakes in config and data, expected findings, time, memory and statistical power."""
