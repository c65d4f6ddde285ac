"""How people are told things: words, numbers and units, and the names of signals, reasons and decisions."""
