"""Numbers and choices: how well predictions agree with labels, and what to use because of it."""
