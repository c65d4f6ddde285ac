"""The stages 'factors' and 'attribute': curvature and scores of all rows, as sums over chunks on Dask workers."""
