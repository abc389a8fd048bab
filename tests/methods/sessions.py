"""Sessions of a tiny model, one task after another, without a loop around them."""

from clora_exp.methods.base import Method
from clora_exp.randomness import seed_everything
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream


class Run:
    def __init__(self, config) -> None:
        self.config, self.stream = config, load_stream(config.tasks, config.data_seed)
        seed_everything(config.seed)
        self.method = Method(config, self.stream)
        self.strategy = next(iter(self.method.strategies), None)

    def begin(self, t: int) -> None:
        seed_everything(0, t + 1)
        self.method.before_task(t, self.stream.tasks[t])

    def learn(self, t: int) -> None:
        self.begin(t)
        task = self.stream.tasks[t]
        fit(self.method, self.method.encode(t, task, "train"), task.name, self.config.trainer, 1)
        self.method.after_task(t, task)

    def batch(self, t: int, rows: range):
        return self.method.encode(t, self.stream.tasks[t], "train")[list(rows)]
