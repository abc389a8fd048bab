"""Models, adapters, runs and caches from somebody else: the attacks, tried; and what no source file may say.

Data from somebody else: `tasks/test_foreign.py`.
"""

import ast
import gzip
import hashlib
import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import nn
from trials import quiet

from clora_exp import discovery, received
from clora_exp.adapters.export import read_peft
from clora_exp.adapters.exported import Exported
from clora_exp.compose import compose_experiment
from clora_exp.errors import ConfigError, DataError, ModelError, RunError
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.loop import run
from clora_exp.models.weights import weights_folder
from clora_exp.runs import read_run
from clora_exp.saved import load_task
from clora_exp.states import read_state
from clora_exp.tasks import cache

ROOT = Path(__file__).parent.parent
SOURCES = [
    *ROOT.glob("*.py"),
    *(p for name in ("clora_exp", "experiments", "benchmarks") for p in (ROOT / name).rglob("*.py")),
]
UNPICKLERS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
RUNS_CODE = {"clora_exp/adapters/reload.py"}  # runs the lines of the README that this project has just written


class Writes:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.marker),))


@pytest.fixture
def marker(tmp_path: Path):
    """The path that an attack makes when it comes through; looked at in the end."""
    path = tmp_path / "attacked"
    yield path
    assert not path.exists()


def test_the_attack_itself_works(tmp_path) -> None:
    pickle.loads(pickle.dumps(Writes(tmp_path / "attacked")))
    assert (tmp_path / "attacked").exists()


class TestSources:
    """What no file of the project may say."""

    @pytest.fixture(params=SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
    def source(self, request) -> Path:
        return request.param

    def test_it_unpickles_nothing_and_runs_no_text(self, source: Path) -> None:
        name = source.relative_to(ROOT).as_posix()
        found = [problem for node in ast.walk(ast.parse(source.read_text())) for problem in problems(node)]
        assert [problem for problem in found if not (problem == "exec" and name in RUNS_CODE)] == []

    @pytest.mark.parametrize(
        "text",
        [
            "import pickle",
            "from dill import loads",
            "import marshal as m",
            "eval(x)",
            "exec(x)",
            "torch.load(p)",
            "torch.load(p, weights_only=False)",
            "np.load(p, allow_pickle=True)",
            "pd.read_pickle(p)",
            "yaml.load(t)",
            "yaml.unsafe_load(t)",
            "subprocess.run(c, shell=True)",
            "os.system(c)",
            "AutoModel.from_pretrained(p, trust_remote_code=True)",
            "load(p, trust_remote_code=flag)",
            "tar.extractall(p)",
        ],
    )
    def test_the_check_itself_finds(self, text: str) -> None:
        assert [problem for node in ast.walk(ast.parse(text)) for problem in problems(node)]

    def test_every_call_that_could_run_a_model_s_code_says_no(self) -> None:
        for source in (ROOT / "clora_exp").rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("trust_remote_code") == "False" or source.name == "reload.py", source


def problems(node: ast.AST) -> list[str]:
    """Return what a node does that is never done here."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
        return [name for name in names if name.split(".")[0] in UNPICKLERS]
    if not isinstance(node, ast.Call):
        return []
    called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
    refused = {"eval", "exec", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
    found = [called] if called in refused or called.endswith((".read_pickle", ".extractall", ".unpack_archive")) else []
    found += [called] if called == "torch.load" and given.get("weights_only") != "True" else []
    never = {"shell": "False", "allow_pickle": "False", "trust_remote_code": "False"}
    return found + [f"{key}={given[key]}" for key in never if given.get(key, "False") != never[key]]


class TestModels:
    """A model's folder from somebody else."""

    @pytest.fixture
    def folder(self, tiny_bert: Path, tmp_path: Path) -> Path:
        return copytree(tiny_bert, tmp_path / "model")

    @pytest.fixture
    def build(self, tiny, folder, monkeypatch):
        """Load the folder as a run does, with a user who says yes to whatever is asked."""
        monkeypatch.setattr("builtins.input", lambda *_: "y")

        def built():
            model = tiny("method=clora", f"model.path={folder}").model
            return discovery.model_kinds.load(model.kind).build(model)

        return built

    @pytest.mark.parametrize("write_pickle", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
    def test_a_pickle_is_not_read(self, build, folder, marker, write_pickle, name: str) -> None:
        (folder / "model.safetensors").unlink()
        write_pickle(Writes(marker), folder / name)
        with pytest.raises(ModelError):
            build()

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "../model.safetensors", "/tmp/model.safetensors", None])
    def test_an_index_names_safetensors_of_the_folder_alone(self, build, folder, marker, name) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        torch.save(Writes(marker), folder / "pytorch_model.bin")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
        with pytest.raises(ModelError, match=r"\.safetensors files of the same folder"):
            build()

    @pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("is_known", [True, False])
    def test_code_beside_the_weights_never_runs(self, build, folder, marker, file: str, is_known: bool) -> None:
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\n")
        plain = json.loads((folder / file).read_text())
        kinds = ("AutoConfig", "AutoModel") if file == "config.json" else ("AutoTokenizer",)
        plain["auto_map"] = {kind: "evil.Evil" if kind != "AutoTokenizer" else [None, "evil.Evil"] for kind in kinds}
        plain |= {} if is_known else {"model_type": "evil", "tokenizer_class": "EvilTokenizer"}
        (folder / file).write_text(json.dumps(plain))
        with suppress(ModelError):  # where transformers has nothing of its own for it
            build()

    def test_a_kernel_of_the_hub_is_refused(self, build, folder) -> None:
        plain = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(plain | {"attn_implementation": "someone/kernel"}))
        with pytest.raises(ModelError, match="someone/kernel' is code from the Hub, which is not run"):
            build()

    def test_an_adapter_s_folder_does_not_fetch_its_base(self, build, folder) -> None:
        config = {"peft_type": "LORA", "base_model_name_or_path": "/elsewhere"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="holds an adapter"):
            build()

    def test_a_package_s_subfolder_lies_in_the_package(self) -> None:
        config = compose_experiment(["model=minilm", "model.subfolder=../.."])
        with pytest.raises(ModelError, match="lies outside of the package"):
            weights_folder(config.model)

    @pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
    def test_an_adapter_s_pickle_is_not_read(self, tmp_path, marker, name: str) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        torch.save(Writes(marker), tmp_path / name)
        with pytest.raises(ModelError, match="no PEFT adapter that can be read"):
            read_peft(tmp_path, {"q": nn.Linear(2, 2)})

    @pytest.mark.parametrize("key", ["(a+)+", ".*.*.*.*.*x", "(", "[a-z]+"])
    def test_a_pattern_that_could_take_for_ever_is_refused(self, tmp_path, key: str) -> None:
        from safetensors.torch import save_file

        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q"], "rank_pattern": {key: 1}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        pair = {
            f"base_model.model.q.lora_{factor}.weight": torch.zeros(s) for factor, s in (("A", (1, 2)), ("B", (2, 1)))
        }
        save_file(pair, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="rank_pattern has the key"):
            read_peft(tmp_path, {"q": nn.Linear(2, 2)})


@pytest.fixture(scope="module")
def whole() -> dict[str, Path]:
    """A finished run, once there is one."""
    return {}


class TestRuns:
    """A run's folder from somebody else."""

    @pytest.fixture
    def folder(self, tiny, whole, tmp_path_factory, tmp_path) -> Path:
        if not whole:
            place = tmp_path_factory.mktemp("whole")
            whole["run"] = run(tiny("method=lora", "trainer.max_steps=1", f"results_dir={place}"), "", quiet()).path
        copied = copytree(whole["run"], tmp_path / "run")
        (copied / "SHA256SUMS").unlink()  # whoever alters a run takes away what would show it
        return copied

    def test_a_pickle_in_place_of_an_adapter_is_not_read_even_with_its_hash(self, folder, marker) -> None:
        content = pickle.dumps(Writes(marker))
        (folder / "adapters/first/adapter.safetensors").write_bytes(content)
        manifest = json.loads((folder / "adapters/first/adapter.json").read_text())
        manifest["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / "adapters/first/adapter.json").write_text(json.dumps(manifest))
        with pytest.raises(RunError, match="cannot be read"):
            load_task(folder, "first")

    def test_a_pickle_in_place_of_a_checkpoint_is_not_read(self, tmp_path, marker) -> None:
        torch.save(Writes(marker), tmp_path / "state.safetensors")
        with pytest.raises(ValueError, match="no state of this project"):
            read_state(tmp_path / "state.safetensors")

    @pytest.mark.parametrize("name", ["..", "../../first", "/etc", "first/../second/.."])
    def test_a_task_s_name_is_one_of_the_run(self, folder, name: str) -> None:
        with pytest.raises(RunError, match="unknown task"):
            load_task(folder, name)

    def test_a_task_s_folder_is_no_link_out_of_the_run(self, folder, tmp_path) -> None:
        (folder / "adapters/first").rename(tmp_path / "elsewhere")
        (folder / "adapters/first").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="a link that leads out of the run"):
            load_task(folder, "first")

    @pytest.mark.parametrize("section", ["method", "tasks", "model"])
    def test_names_that_become_folders_are_checked_where_a_run_is_read_too(self, folder, section: str) -> None:
        text = "\n" + (folder / "config.yaml").read_text()
        at = text.index(f"\n{section}:\n") + len(section) + 2
        (folder / "config.yaml").write_text(text[:at] + text[at:].replace("name: ", "name: ../../", 1))
        with pytest.raises(ConfigError, match=rf"{section}\.name=\.\./\.\./"):
            load_task(folder, "first")

    def test_yaml_makes_no_objects(self, folder, marker) -> None:
        (folder / "config.yaml").write_text(f"a: !!python/object/apply:os.mkdir [{str(marker)!r}]\n")
        for reading in (read_run, lambda path: load_task(path, "first")):
            with pytest.raises(RunError, match="cannot be read"):
                reading(folder)

    def test_a_billion_laughs_are_refused(self, folder) -> None:
        lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]
        for text in ("\n".join(lines), "[" * 5_000, "a: " + "x" * received.MAX_YAML_BYTES):
            (folder / "config.yaml").write_text(text)
            with pytest.raises(RunError, match="cannot be read"):
                read_run(folder)

    def test_a_decompression_bomb_is_refused(self, folder) -> None:
        with gzip.open(folder / "predictions.csv.gz", "wb") as file:
            for _ in range(received.ALWAYS_UNPACKED_BYTES // 2**20 + 1):
                file.write(b"a,b,c\n" * (2**20 // 6 + 1))
        with pytest.raises(RunError, match="unpacks to more than"):
            read_predictions(folder / "predictions.csv.gz")

    @pytest.mark.parametrize(
        "key", ["method.name", "tasks.name", "model.name", "tasks.icd10.name", "tasks.licences.name"]
    )
    @pytest.mark.parametrize("name", ["../out", "/out", "a/b", "..", ".hidden", "a\\b"])
    def test_no_name_of_a_configuration_leaves_the_results(self, key: str, name: str) -> None:
        with pytest.raises(ConfigError, match="match pattern"):
            compose_experiment([f"{key}='{name}'"])

    def test_words_of_a_task_open_no_code_in_a_readme(self) -> None:
        bad = "```python\nimport os\n```"
        text = Exported(f"t{bad}", "b", {}, "print(1)", description=bad).as_readme(bad, "Files.", "`HERE`")
        assert text.count("```") == 2
        assert "```python\nprint(1)\n```" in text


class TestCache:
    """The cache, where somebody else can write."""

    def test_a_pickle_among_prepared_tasks_and_tokens_is_made_again(self, tiny, tmp_path, monkeypatch, marker) -> None:
        monkeypatch.setenv("CLORA_EXP_CACHE", str(tmp_path / "cache"))
        first = run(tiny("method=lora", "trainer.max_steps=1"), "", quiet())
        files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".jsonl", ".safetensors"}
        for path in files:
            path.write_bytes(pickle.dumps(Writes(marker)))
        again = run(tiny("method=lora", "trainer.max_steps=1", f"results_dir={tmp_path / 'again'}"), "", quiet())
        assert again.read().matrix.to_csv() == first.read().matrix.to_csv()
        assert not any(path.read_bytes().startswith(pickle.dumps(0)[:2]) for path in files)

    def test_a_task_with_a_name_that_leaves_its_folder_is_not_taken(self, tmp_path) -> None:
        examples = [[str(i), "x", "a", str(i), ""] for i in range(3)]
        fields = {
            "name": "../../evil",
            "description": "",
            "licence": "",
            "attribution": "",
            "labels": ["a"],
            "notes": [],
        }
        content = b"".join(cache._line(v) for v in [fields | {"train": 1, "validation": 1, "test": 1}, *examples])
        path = tmp_path / "tasks.jsonl"
        path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        with pytest.raises(DataError, match="its name becomes a folder's"):
            cache._read(path)
