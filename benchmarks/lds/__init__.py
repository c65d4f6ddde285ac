"""How faithful are attributions: predicted against measured changes on retraining with rows left out."""
