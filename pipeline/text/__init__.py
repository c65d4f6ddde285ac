"""Text for people: formatted numbers and units, decisions, reasons, and the names of arms."""
