"""How people are told things: words, numbers and units in sentences, and what signals, reasons and decisions are called."""
