"""The parts that live as long as a run: directory, policy, training loop, collected responses."""
