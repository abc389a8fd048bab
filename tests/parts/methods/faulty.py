"""A strategy with a bug, for what a sweep says of it."""

from dataclasses import dataclass

from clora_exp.config import STRICT, Flag
from clora_exp.methods.strategy import Strategy
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config:
    __pydantic_config__ = STRICT
    fails: Flag = True


class Faulty(Strategy):
    def before_task(self, t: int, task: Task) -> None:
        if self.config.fails:
            raise ZeroDivisionError("a bug\nof two lines")
