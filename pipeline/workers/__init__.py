"""Dask workers: the cluster, the processes, and what a worker keeps between tasks."""
