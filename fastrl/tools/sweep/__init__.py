"""fastrl sweep: a grid of recipe fields, each combination with several seeds; its runs and their table."""
