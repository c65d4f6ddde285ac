"""Source files of any format: every one is read as Parquet, from a copy where it is something else."""
