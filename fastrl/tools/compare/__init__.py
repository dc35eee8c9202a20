"""fastrl compare: checks a run against bands from several seeds, or against another run."""
