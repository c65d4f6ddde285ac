"""Text for people: formatted numbers and units, and the names of signals, reasons and decisions."""
