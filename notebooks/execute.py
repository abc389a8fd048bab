"""Run the notebooks from a clean slate and keep what they show: make notebooks, or python notebooks/execute.py 01 03.

Each runs in a folder that holds a copy of results/ and nothing else, on one thread, so that what it shows was made by
its own cells, and no path of this machine is in it. Times and the machine's names are left out of what is kept.
"""

import base64
import io
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks() -> list[Path]:
    """Return the notebooks, in order."""
    return sorted(HERE.glob("0*.ipynb"))


def workspace(folder: Path) -> Path:
    """Make `folder` look like the repository's root, as far as notebooks see it; runs stay out."""
    shutil.copytree(ROOT / "results", folder / "results", ignore=shutil.ignore_patterns("runs"))
    (folder / "notebooks").mkdir()
    return folder


def executed(path: Path, root: Path, more: str = "") -> NotebookNode:
    """Return the notebook with its outputs, run from the top in `root`; `more` is a last cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message shows it.
    """
    notebook = nbformat.read(path, as_version=4)
    if more:
        notebook.cells.append(nbformat.v4.new_code_cell(more))
    client = NotebookClient(
        notebook,
        timeout=1800,
        startup_timeout=600,
        extra_arguments=["--IPKernelApp.log_level=40"],
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(root)}},
    )
    found = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    alone = {"PYTHONPATH": found, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    client.execute(env=os.environ | alone)
    return notebook


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Take out what differs from one machine to the next, versions and object addresses; make figures small."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if "image/png" in output.get("data", {}):
                output["data"]["text/plain"] = re.sub(r" at 0x\w+", "", output["data"]["text/plain"])
                output["data"]["image/png"] = with_few_colours(output["data"]["image/png"])
    return notebook


def with_few_colours(png: str) -> str:
    """Return a PNG in base64 with 256 colours at most: a third of the bytes, and a chart needs no more."""
    content = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode() + "\n"


def main() -> None:
    """Run those that are named, or all, and write them back."""
    for path in notebooks():
        if sys.argv[1:] and not path.name.startswith(tuple(sys.argv[1:])):
            continue
        print(f"{path.name} …", end=" ", flush=True)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = tidy(executed(path, workspace(Path(folder) / "root")))
        nbformat.write(notebook, path)
        print(f"{time.perf_counter() - started:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
