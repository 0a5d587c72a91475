"""`python -m bstar_jax NAME ...` is `bstar-jax NAME ...`."""

from bstar_jax.command import run

if __name__ == "__main__":
    run()
