"""The formats of source files that are not Parquet: a file for each."""
