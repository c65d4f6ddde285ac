"""The stages `factors` and `attribute`: curvature and scores of all rows, computed over chunks on Dask workers."""
