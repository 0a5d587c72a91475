"""Parameters and training state on disk, by Orbax: asynchronous, whole or not at all.

    checkpoints/params/<iteration>     parameters after each iteration; 0 is after warm-up
    checkpoints/training/<serial>      the newest parameters with their optimizer state, saved
                                       within and after every training phase

What is on disk has the true vocabulary and does not depend on the mesh that wrote it. Of a model
with adapters it is the adapters alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.model import adapters

_SERIAL = 10**8  # a training phase has fewer optimizer steps than this


@dataclasses.dataclass(frozen=True)
class SavePoint:
    """Where in a run a training state was saved.

    Attributes:
      iteration: 0 is warm-up.
      step: Optimizer steps of that iteration's phase that are done.
    """

    iteration: int
    step: int


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(
        self,
        directory: str | os.PathLike,
        config: ModelConfig,
        mesh: Mesh,
        *,
        keep: int = 0,
        read_only: bool = False,
    ):
        """Opens or creates the checkpoints.

        Args:
          directory: The run's `checkpoints`.
          config: The model.
          mesh: Where restored arrays go.
          keep: Iterations whose parameters are kept, besides warm-up; 0 is all.
          read_only: Leaves alone what another process may be writing.
        """
        self._directory = directory = os.path.abspath(directory)
        self._config, self._mesh, self._keep = config, mesh, keep
        self._params = _manager(os.path.join(directory, "params"), None, read_only)
        self._training = _manager(os.path.join(directory, "training"), 1, read_only)

    def iterations(self) -> list[int]:
        """Iterations whose parameters are on disk, ascending."""
        return sorted(self._params.all_steps())

    def latest(self) -> int:
        """The newest iteration whose parameters are on disk.

        Raises:
          UserError: If there is none yet.
        """
        iterations = self.iterations()
        if not iterations:
            raise UserError(
                f"{self._directory} has no checkpoint yet: the command that started the run goes "
                "on to its first"
            )
        return iterations[-1]

    def save_params(self, iteration: int, params: dict) -> None:
        """Starts writing the parameters of an iteration."""
        if iteration not in self.iterations():
            self._save(self._params, iteration, params)

    def restore_params(
        self, iteration: int, cast: Callable[[dict], dict] = lambda shapes: shapes
    ) -> dict:
        """The parameters of an iteration, on the storage map.

        Args:
          iteration: Which.
          cast: From the shapes on disk to those wanted, of other dtypes.

        Raises:
          UserError: If that iteration is not on disk, with those that are.
        """
        if iteration not in self._params.all_steps():
            raise UserError(
                f"there is no checkpoint of iteration {iteration}; there are {self.iterations()}"
            )
        shapes = cast(adapters.trained_shapes(self._config))
        return self._restore(self._params, iteration, shapes)

    def save_point(self) -> SavePoint | None:
        """Where the newest training state was saved."""
        serial = self._training.latest_step()
        return None if serial is None else SavePoint(*divmod(serial, _SERIAL))

    def save_training(self, point: SavePoint, state) -> None:
        """Starts writing a training state; the one before goes once this one is whole."""
        self._save(self._training, _serial(point), state)

    def restore_training(self, point: SavePoint, like):
        """The training state saved at a point, on the storage map.

        Args:
          point: As `save_point()` gave it.
          like: Shapes of such a state with the true vocabulary.
        """
        return self._restore(self._training, _serial(point), like)

    def prune(self) -> None:
        """Drops the oldest parameters beyond `keep`; those of warm-up stay."""
        if self._keep:
            for iteration in [step for step in self.iterations() if step][: -self._keep]:
                self._params.delete(iteration)

    def wait(self) -> None:
        """Returns when everything started is on disk.

        Raises:
          UserError: If it could not be written.
        """
        with _disk_full_explained():
            self._params.wait_until_finished()
            self._training.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the files."""
        self.wait()
        self._params.close()
        self._training.close()

    def _save(self, manager, step, tree):
        # `force`: by itself Orbax passes over a step below the newest, and says nothing.
        with _disk_full_explained():
            manager.save(step, args=ocp.args.StandardSave(self._to_disk(tree)), force=True)

    def _restore(self, manager, step, like):
        places = self._shardings(like, sharding.DISK)
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            like,
            places,
        )
        restored = manager.restore(step, args=ocp.args.StandardRestore(target))
        return place_params(self._config, self._mesh, restored)

    def _to_disk(self, tree):
        # A copy: the caller may give its arrays up to the next step while these are written.
        def cut(tree):
            return jax.tree.map(jnp.copy, model.cut_vocab(self._config, tree))

        places = self._shardings(jax.eval_shape(cut, tree), sharding.DISK)
        return jax.jit(cut, out_shardings=places)(tree)

    def _shardings(self, tree, table):
        return sharding.shardings(self._mesh, tree, model.logical_axes(self._config, tree), table)


def place_params(config: ModelConfig, mesh: Mesh, tree):
    """Parameters, or a state of them, padded and placed as training stores them on the mesh.

    They lie on that mesh, or every process holds them whole.
    """
    size = sharding.padded_vocab(config, mesh)
    pad = functools.partial(model.pad_vocab, config, size=size)
    places = sharding.shardings(mesh, tree, model.logical_axes(config, tree))
    is_here = all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree))
    if mesh.is_multi_process and is_here:
        return sharding.put(jax.jit(pad)(tree), places)
    return jax.jit(pad, out_shardings=places)(tree)


@contextlib.contextmanager
def _disk_full_explained():
    """Turns a full disk, which tensorstore reports in a ValueError, into one clear line."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a checkpoint could not be written: {str(error)[:200]}; free space on that disk and "
            "start again, the run goes on from what is stored"
        ) from error


def _serial(point: SavePoint) -> int:
    return point.iteration * _SERIAL + point.step


def _manager(directory: str, keep: int | None, read_only: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        read_only=read_only,
        # What a kill left half written.
        cleanup_tmp_directories=not read_only,
        # Several processes meet under this name; two managers may be saving at once.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=re.sub(r"\W", "-", directory)
        ),
    )
    return ocp.CheckpointManager(directory, options=options)
