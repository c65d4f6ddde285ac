"""Whether the loss that ``attribute`` is told is the loss that training had, and its gradient the one applied."""
