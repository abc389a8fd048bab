"""TensorBoard, by Lightning's logger: `results_dir/.tensorboard/<tasks>/<method>/<run>/`, without a network.

`tensorboard --logdir results/runs/.tensorboard` shows all runs side by side.
"""

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_exp.config import STRICT
from clora_exp.loggers.base import Ending, Logger, Point, need

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Config:
    """It has no settings."""

    __pydantic_config__ = STRICT


def check() -> None:
    """Raises RunError where TensorBoard is not installed."""
    need("tensorboard", "tensorboard")


class TensorBoard(Logger):
    """Scalars of every point, the figures, and the matrix as text."""

    def start(self, known: str | None) -> tuple[str, str]:
        """Open the run's event files, of a new run without those of the one before it."""
        from pytorch_lightning.loggers import TensorBoardLogger

        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        config, version = self.run.config, self.run.path.name
        folder = self.place / config.tasks.name / config.method.name
        if known is None:
            shutil.rmtree(folder / version, ignore_errors=True)
        self._board: TensorBoardLogger = TensorBoardLogger(
            self.place, f"{config.tasks.name}/{config.method.name}", version=version
        )
        self._board.log_hyperparams(self.run.described())
        return version, f"tensorboard --logdir {self.place}"

    def log(self, points: list[Point]) -> None:
        """Write every number at its place on its own axis."""
        for point in points:
            self._board.log_metrics(point.values, step=point.x)
        self._board.experiment.flush()

    def finish(self, ending: Ending) -> None:
        """Write figures and matrix of a finished run, how it ended, and close the files."""
        import numpy as np
        from PIL import Image

        writer = self._board.experiment
        for name, path in ending.figures.items():
            with Image.open(path) as image:
                writer.add_image(f"figures/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")
        if ending.run is not None:
            csv = ending.run.matrix.to_csv().replace("\n", "\n    ")
            writer.add_text("accuracy_matrix", f"    {csv}")
        writer.add_text("status", f"{ending.status} {ending.message}".strip())
        self._board.finalize("success" if ending.status == "done" else "failed")
