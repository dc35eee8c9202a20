"""fastrl reproduce: the headline claims of four papers in the tiny world, over seeds, in one table."""
