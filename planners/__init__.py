"""Rules that turn a fingerprint and a memory budget into a plan: arithmetic on the standard library and numpy."""
