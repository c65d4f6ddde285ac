"""The EK-FAC curvature of a trajectory's segments: factors, eigenbases, and functions of the eigenvalues."""
