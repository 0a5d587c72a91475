"""The learnt process reward: labels of solution steps, a model that learns them, its scores."""
