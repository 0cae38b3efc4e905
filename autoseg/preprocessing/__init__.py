"""From the user's disk to the store: measure, crop, normalize, resample, and the exact way back."""
