"""Small real datasets with planted label errors, and the script that makes them."""
