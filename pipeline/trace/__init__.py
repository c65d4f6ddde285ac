"""Which training rows are behind some predictions. Front door: `trace.py`."""
