"""Dask workers: the cluster, the worker processes, and their caches."""
