"""Parameters and training states on disk. Orbax writes them in the background, atomically.

    checkpoints/params/<iteration>     parameters after each iteration; 0 is after warm-up
    checkpoints/training/<serial>      the newest parameters with their optimizer state, saved
                                       within and after every training phase

The files have the true vocabulary, without padding, and do not depend on the mesh that wrote them.
For a model with adapters they hold only the adapters.
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
    """The point in a run at which a training state was saved.

    Attributes:
      iteration: The iteration; 0 is warm-up.
      step: Optimizer steps that its training phase had done.
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
          directory: The folder `checkpoints` of the run.
          config: The model.
          mesh: The devices that restored arrays are placed on.
          keep: How many iterations keep their parameters, besides warm-up; 0 keeps all.
          read_only: Whether to change nothing, because another process may be writing.
        """
        self._directory = directory = os.path.abspath(directory)
        self._config, self._mesh, self._keep = config, mesh, keep
        self._params = _manager(os.path.join(directory, "params"), None, read_only)
        self._training = _manager(os.path.join(directory, "training"), 1, read_only)

    def iterations(self) -> list[int]:
        """Lists the iterations whose parameters are on disk, ascending."""
        return sorted(self._params.all_steps())

    def latest(self) -> int:
        """Returns the newest iteration whose parameters are on disk.

        Raises:
          UserError: If there is none yet.
        """
        iterations = self.iterations()
        if not iterations:
            raise UserError(
                f"{self._directory} has no checkpoint yet; the command that started the run "
                "continues it, and writes the first after warm-up"
            )
        return iterations[-1]

    def save_params(self, iteration: int, params: dict) -> None:
        """Saves the parameters of an iteration in the background, unless they are on disk."""
        if iteration not in self.iterations():
            self._save(self._params, iteration, params)

    def restore_params(
        self, iteration: int, cast: Callable[[dict], dict] = lambda shapes: shapes
    ) -> dict:
        """Reads the parameters of an iteration, sharded as training stores them.

        Args:
          iteration: The iteration.
          cast: Changes the shapes on disk to those wanted, which may have other dtypes.

        Raises:
          UserError: If that iteration is not on disk. The message lists those that are.
        """
        if iteration not in self._params.all_steps():
            raise UserError(
                f"there is no checkpoint of iteration {iteration}; there are {self.iterations()}"
            )
        shapes = cast(adapters.trained_shapes(self._config))
        return self._restore(self._params, iteration, shapes)

    def save_point(self) -> SavePoint | None:
        """Returns the point of the newest training state, or None if there is no state."""
        serial = self._training.latest_step()
        return None if serial is None else SavePoint(*divmod(serial, _SERIAL))

    def save_training(self, point: SavePoint, state) -> None:
        """Saves a training state in the background.

        The previous one is deleted when this one is complete.
        """
        self._save(self._training, _serial(point), state)

    def restore_training(self, point: SavePoint, like):
        """Reads the training state saved at a point, sharded as training stores it.

        Args:
          point: The point, as `save_point()` returned it.
          like: The shapes of such a state, with the true vocabulary.
        """
        return self._restore(self._training, _serial(point), like)

    def prune(self) -> None:
        """Deletes the oldest parameters beyond `keep`; those of warm-up stay."""
        if self._keep:
            for iteration in [step for step in self.iterations() if step][: -self._keep]:
                self._params.delete(iteration)

    def wait(self) -> None:
        """Waits until everything that is being saved is on disk.

        Raises:
          UserError: If something could not be written.
        """
        with _disk_full_explained():
            self._params.wait_until_finished()
            self._training.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and closes the files."""
        self.wait()
        self._params.close()
        self._training.close()

    def _save(self, manager, step, tree):
        # Without `force` Orbax silently skips a step below the newest.
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
        # A copy, because the caller may donate its arrays to the next step during the writing.
        def cut(tree):
            return jax.tree.map(jnp.copy, model.cut_vocab(self._config, tree))

        places = self._shardings(jax.eval_shape(cut, tree), sharding.DISK)
        return jax.jit(cut, out_shardings=places)(tree)

    def _shardings(self, tree, table):
        return sharding.shardings(self._mesh, tree, model.logical_axes(self._config, tree), table)


def place_params(config: ModelConfig, mesh: Mesh, tree):
    """Pads the vocabulary of a tree of parameters and shards it as training stores it.

    Args:
      config: The model.
      mesh: The devices.
      tree: Parameters or a training state. They are on that mesh already, or every process has a
        complete copy.
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
    """Turns the error of a full disk, in tensorstore a ValueError, into one clear line."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"a checkpoint could not be written: {str(error)[:200]}; free space on that disk and "
            "start the same command again, which continues from what is stored"
        ) from error


def _serial(point: SavePoint) -> int:
    return point.iteration * _SERIAL + point.step


def _manager(directory: str, keep: int | None, read_only: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        read_only=read_only,
        # Removes what a killed process left incomplete.
        cleanup_tmp_directories=not read_only,
        # Processes synchronize under this name, and two managers may be saving at once.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=re.sub(r"\W", "-", directory)
        ),
    )
    return ocp.CheckpointManager(directory, options=options)
