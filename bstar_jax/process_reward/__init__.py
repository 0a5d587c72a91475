"""The learnt process reward: labels of solution steps, the model that learns them, its scores."""
