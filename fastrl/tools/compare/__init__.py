"""Does a run go as it went before? It is held against bands that several seeds made, or another run."""
