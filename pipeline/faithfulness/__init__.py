"""`winnow lds`: measures how well methods of attribution predict retrainings on random subsets of the user's data, or
scores attributions on the retrainings of a truth bank."""
