"""The embedded default: a model of 0.3M parameters teaches itself grade-school stories.

python -m bstar_jax.main --config=configs/arithmetic.py --workdir=runs/first
"""

from bstar_jax.config import Config
from bstar_jax.flags import pick_variant


def get_config(variant="bstar"):
    return pick_variant(variant, {"bstar": Config})
