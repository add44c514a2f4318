"""Pure functions of pixels: color spaces, histograms, and colors from histograms."""
