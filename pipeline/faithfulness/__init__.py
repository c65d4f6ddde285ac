"""`winnow lds`: measures how well methods of attribution predict retrainings on random subsets of the user's data."""
