"""How people are told things: words, numbers and units, decisions, reasons, and the names of arms."""
