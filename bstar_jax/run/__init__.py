"""What lives as long as a run: its directory, its model, its training loop, its responses."""
