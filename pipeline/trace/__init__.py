"""`winnow trace`: finds the train rows with the most influence on some predictions. Its front door is `trace.py`."""
