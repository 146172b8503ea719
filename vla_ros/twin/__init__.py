"""Digital twin: the simulated cell's drives, load and cameras fitted to recorded episodes, with what is not known."""
