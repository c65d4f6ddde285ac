"""The panel of judges: plain models of several families. Each judge predicts the label of every row out of fold."""
