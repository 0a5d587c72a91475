"""The learnt process reward: a model that scores solution steps."""
