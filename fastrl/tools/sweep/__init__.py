"""fastrl sweep: trains a grid of recipe fields with several seeds, and tabulates the results."""
