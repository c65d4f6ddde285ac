"""A panel of judges: plain models of several families, each of which judges every row out of fold."""
