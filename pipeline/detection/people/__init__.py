"""What people say about rows: answers on a sample, and decisions."""
