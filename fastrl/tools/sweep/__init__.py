"""fastrl sweep: a grid of recipe fields, each combination with several seeds; runs, one table, one plot."""
