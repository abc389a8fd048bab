"""Data from somebody else: names, links, images, archives and tables that try to leave their folder, or to run code."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from own_data import WORDS, error_of, image, rows_of, stream_of, write

from clora_exp.errors import CloraError, DataError
from clora_exp.tasks.sources import hub
from clora_exp.tasks.stream import Example, Task


@pytest.fixture
def marker(tmp_path: Path):
    """The path that an attack makes when it comes through; looked at in the end."""
    path = tmp_path / "attacked"
    yield path
    assert not path.exists()


class Writes:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.marker),))


class TestData:
    """The user's own folder and tables, from somebody else."""

    @pytest.fixture
    def pictures(self, tmp_path: Path) -> Path:
        for split in ("train", "test"):
            for label, colour in (("dark", 0), ("light", 200)):
                for i in range(4):
                    image(tmp_path / "mine" / "shades" / split / label / f"{i}.png", colour + i + 4 * (split == "test"))
        return tmp_path / "mine"

    @pytest.mark.parametrize("name", ["../up", "a/b", "..", "init\n", "/abs", "basis.safetensors"])
    def test_a_task_s_name_in_a_table_is_a_folder_s(self, tmp_path, name: str) -> None:
        rows = [row | {"task": name} for row in rows_of(WORDS["legal"], 30)]
        with pytest.raises(CloraError, match=r"its name becomes a folder's|no task can be called"):
            stream_of(write(tmp_path / "table.jsonl", rows))

    @pytest.mark.parametrize("name", ["../up", "a b", ""])
    def test_no_source_makes_a_task_with_another_name(self, name: str) -> None:
        example = [Example("1", "x", "a", "1")]
        with pytest.raises(DataError, match="its name becomes a folder's"):
            Task(name, "", "", "", ["a"], example, example, example)

    def test_a_link_that_leads_out_is_refused_and_one_inside_is_not(self, pictures, tmp_path) -> None:
        inside = pictures / "shades/train/dark/inside.png"
        inside.symlink_to(pictures / "shades/train/dark/0.png")
        assert len(stream_of(pictures)) == 1
        image(tmp_path / "private.png", 99)
        (pictures / "shades/train/dark/out.png").symlink_to(tmp_path / "private.png")
        assert "out.png is a link that leads out of" in error_of(pictures)

    def test_a_table_that_is_a_link_out_is_refused(self, tmp_path) -> None:
        private = write(tmp_path / "private.jsonl", rows_of(WORDS["legal"], 30))
        write(tmp_path / "mine/legal/train.jsonl", rows_of(WORDS["legal"], 30))
        (tmp_path / "mine/legal/test.jsonl").symlink_to(private)
        assert "test.jsonl is a link that leads out of" in error_of(tmp_path / "mine")

    def test_a_program_s_format_under_an_image_s_name_is_not_opened(self, pictures) -> None:
        eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
        (pictures / "shades/train/dark/eps.png").write_bytes(eps)
        assert error_of(pictures).endswith("eps.png: no image that can be read")

    @pytest.mark.parametrize("side", [10_000, 60_000])
    def test_an_image_of_too_many_pixels_is_one_line(self, pictures, side: int) -> None:
        (pictures / "shades/train/dark/bomb.png").write_bytes(png_bomb(side))
        assert "bomb.png: no image that can be read: it has" in error_of(pictures)


def png_bomb(side: int) -> bytes:
    """Return a small PNG file of side × side black pixels."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side // 8 + 1)) for _ in range(100)) + packer.flush()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class TestHubData:
    """A local copy of a hub data set from somebody else."""

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        pytest.importorskip("datasets").disable_progress_bars()
        for split in ("train", "test"):
            write(tmp_path / "copy" / f"{split}.jsonl", rows_of(["a", "b"], 8, 100 * (split == "test")))
        return tmp_path / "copy"

    @pytest.fixture
    def error(self, copy):
        def of(**more) -> str:
            with pytest.raises(DataError) as caught:
                hub.tasks(hub.Config(datasets={"a": hub.HubDataset(str(copy), **more)}), 0)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        return of

    def test_a_script_beside_the_data_does_not_run(self, copy, marker) -> None:
        for name in ("copy.py", "dataset.py", "__init__.py"):
            (copy / name).write_text(f"import os\nos.mkdir({str(marker)!r})\n")
        assert len(hub.tasks(hub.Config(datasets={"a": hub.HubDataset(str(copy))}), 0)) == 1

    def test_a_script_alone_and_a_pickle_alone_are_no_data_set(self, copy, error, marker) -> None:
        for path in copy.iterdir():
            path.unlink()
        (copy / "copy.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
        (copy / "train.pkl").write_bytes(pickle.dumps(Writes(marker)))
        assert "cannot be read as a data set" in error()

    def test_what_is_packed_is_refused(self, copy, error) -> None:
        with zipfile.ZipFile(copy / "more.zip", "w") as file:
            file.writestr("../../evil.txt", "x")
        assert "more.zip is a zip archive; unpack it" in error()
        (copy / "more.zip").unlink()
        (copy / "train.jsonl").write_bytes(gzip.compress((copy / "train.jsonl").read_bytes()))
        assert "train.jsonl is compressed by gzip; unpack it" in error()
        with tarfile.open(copy / "train.jsonl", "w") as file:
            file.addfile(tarfile.TarInfo("../evil"), io.BytesIO())
        assert "train.jsonl is a tar archive; unpack it" in error()

    @pytest.mark.parametrize(
        "pattern", ["../private/*.jsonl", "/etc/passwd", "~/x", "https://a.example/x", "a/../../x"]
    )
    def test_a_card_s_patterns_stay_in_the_folder(self, copy, error, pattern: str) -> None:
        files = json.dumps([{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}])
        (copy / "README.md").write_text(f"---\nconfigs: {files}\n---\n# A data set\n")
        assert "README.md names " in error()

    def test_a_saved_data_set_s_files_stay_in_the_folder(self, copy, error) -> None:
        (copy / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../private.arrow"}]}))
        assert "state.json names '../../private.arrow', which lies outside of its folder" in error()

    def test_a_link_that_leads_out_is_refused(self, copy, error, tmp_path) -> None:
        (copy / "train.jsonl").rename(tmp_path / "private.jsonl")
        (copy / "train.jsonl").symlink_to(tmp_path / "private.jsonl")
        assert "train.jsonl is a link that leads out of" in error()

    def test_an_image_that_a_table_names_belongs_to_it(self, copy, error, tmp_path) -> None:
        import datasets
        from test_hub import _write_parquet

        image(tmp_path / "private.png", 9)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        for split in ("train", "test"):
            (copy / f"{split}.jsonl").unlink()
            rows = [
                {"image": {"bytes": None, "path": str(tmp_path / "private.png")}, "label": "ab"[i % 2]}
                for i in range(8)
            ]
            _write_parquet(copy / f"{split}.parquet", rows, features)
        assert "private.png, which lies outside of it" in error(image="image")
