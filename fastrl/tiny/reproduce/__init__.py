"""fastrl reproduce: tests the main claims of four papers in the tiny world, over seeds, in one table."""
