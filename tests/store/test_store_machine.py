"""Whatever is done to a store in whatever order, it is what a few dictionaries say that it should be."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from made import bytes_on_disk, published

from clora_exp.store.checking import repaired, verify
from clora_exp.store.collect import collect, garbage
from clora_exp.store.folder import Store
from clora_exp.store.index import listing
from clora_exp.store.manifest import Manifest, Source

TASKS = ["legal", "medical", "code"]


@dataclass
class Task:
    """What a task's folder should hold."""

    versions: dict[str, Manifest] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    num_given: int = 0

    def promoted(self, version: str) -> None:
        """Move current, and previous after it."""
        before = self.aliases.get("current")
        if before is not None and before != version:
            self.aliases["previous"] = before
        self.aliases["current"] = version

    def accuracy(self, version: str) -> float:
        """Return what a version reached."""
        return self.versions[version].metrics["accuracy"]


class StoreMachine(RuleBasedStateMachine):
    """Publish, promote, go back, collect, derive, reopen and lose the index, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "store", is_new=True)
        self.tasks: dict[str, Task] = {}
        self.num_added = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def _added(self, task: str, promote: bool, accuracy: float, **changes) -> None:
        self.num_added += 1
        added = published(self.store, task, self.num_added, promote=promote, metrics={"accuracy": accuracy}, **changes)
        expected = self.tasks.setdefault(task, Task())
        expected.num_given += 1
        assert added.version == f"v{expected.num_given}"
        expected.versions[added.version] = added
        if promote or "current" not in expected.aliases:
            expected.promoted(added.version)
        best = expected.aliases.get("best")
        if best is None or accuracy > expected.accuracy(best):
            expected.aliases["best"] = added.version

    def _any_version(self, data: st.DataObject) -> Source:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        version = data.draw(st.sampled_from(sorted(self.tasks[task].versions)))
        return Source(task, version, self.tasks[task].versions[version].id)

    @rule(task=st.sampled_from(TASKS), promote=st.booleans(), accuracy=st.sampled_from([0.25, 0.5, 0.75]))
    def publish(self, task: str, promote: bool, accuracy: float) -> None:
        self._added(task, promote, accuracy)

    @precondition(lambda self: self.tasks)
    @rule(task=st.sampled_from(TASKS), promote=st.booleans(), data=st.data())
    def publish_a_child(self, task: str, promote: bool, data: st.DataObject) -> None:
        self._added(task, promote, 0.5, parent=self._any_version(data))

    @precondition(lambda self: self.tasks)
    @rule(promote=st.booleans(), number=st.sampled_from(["int8", "bfloat16"]), data=st.data())
    def derive_a_smaller_one(self, promote: bool, number: str, data: st.DataObject) -> None:
        source = self._any_version(data)
        accuracy = self.tasks[source.task].accuracy(source.version)
        parent = self.store.manifest(source.task, source.version).parent
        derivation = {"number": number}
        self._added(
            source.task, promote, accuracy, number=number, derived_from=source, derivation=derivation, parent=parent
        )

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        source = self._any_version(data)
        which = data.draw(st.sampled_from([source.version, source.id, source.id[:8]]))
        assert self.store.promote(source.task, which).id == source.id
        self.tasks[source.task].promoted(source.version)

    @precondition(lambda self: any("previous" in task.aliases for task in self.tasks.values()))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, task in self.tasks.items() if "previous" in task.aliases)))
        self.store.rollback(name)
        self.tasks[name].promoted(self.tasks[name].aliases["previous"])

    @rule()
    def collect(self) -> None:
        kept = {(name, version) for name, task in self.tasks.items() for version in task.aliases.values()}
        wanted = list(kept)
        while wanted:
            name, version = wanted.pop()
            parent = self.tasks[name].versions[version].parent
            if parent is not None and (parent.task, parent.version) not in kept:
                kept.add((parent.task, parent.version))
                wanted.append((parent.task, parent.version))
        named, before = garbage(self.store), bytes_on_disk(self.store)
        assert collect(self.store) == named
        assert before - bytes_on_disk(self.store) == named.num_bytes
        have = {(name, version) for name, task in self.tasks.items() for version in task.versions}
        assert {(name, version) for name, version, _ in named.versions} == have - kept
        for name, version in have - kept:
            del self.tasks[name].versions[version]

    @rule()
    def make_the_index_again(self) -> None:
        assert repaired(self.store) == []
        assert listing(self.store, is_new=True) == listing(self.store)

    @rule(content=st.none() | st.sampled_from([b"", b"rubbish", b"{}", b'{"format":1,"tasks":{}}']))
    def lose_the_index(self, content: bytes | None) -> None:
        path = self.store.path / "index.json"
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)

    @rule()
    def reopen(self) -> None:
        self.store = Store(self.store.path)

    @invariant()
    def the_list_is_what_was_done(self) -> None:
        expected = [
            (name, version, manifest.id, manifest.metrics["accuracy"], sorted(self._meaning(name, version)))
            for name in sorted(self.tasks)
            for version, manifest in self.tasks[name].versions.items()
        ]
        rows = listing(self.store)
        assert [(row.task, row.version, row.id, row.accuracy, row.aliases) for row in rows] == expected
        assert not [row for row in rows if row.problem]

    def _meaning(self, name: str, version: str) -> list[str]:
        return [alias for alias, meant in self.tasks[name].aliases.items() if meant == version]

    @invariant()
    def every_alias_reads_what_it_should(self) -> None:
        assert self.store.tasks() == sorted(self.tasks)
        for name, task in self.tasks.items():
            found = self.store.aliases(name)
            assert {alias: target.version for alias, target in found.targets.items()} == task.aliases
            for alias, version in task.aliases.items():
                assert self.store.read(name, alias).manifest == task.versions[version]

    @invariant()
    def verify_finds_nothing(self) -> None:
        assert not [found for found in verify(self.store) if found.problem]


StoreMachine.TestCase.settings = settings(max_examples=settings.default.max_examples // 2, stateful_step_count=20)
TestWhateverIsDoneToAStore = StoreMachine.TestCase
