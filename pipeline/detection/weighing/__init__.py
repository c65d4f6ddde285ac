"""Weighs the evidence about the train rows: ranking, suggested labels, and how many labels are wrong."""
