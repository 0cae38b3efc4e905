"""From an image to its segmentation: windows through the network, logits back to the image's grid, files."""
