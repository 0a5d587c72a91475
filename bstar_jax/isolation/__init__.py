"""Where what may hang, or attack, runs: worker processes, and a sandbox for programs."""
