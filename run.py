"""Run one experiment: python run.py method=clora tasks=med_legal_code. See --help, README.md and clora_exp/loop.py."""

import os
import signal
import sys
from types import FrameType

import hydra
from omegaconf import DictConfig

from clora_exp import processes
from clora_exp.command import carry_out, checked, in_a_shell, typed
from clora_exp.compose import CONF, asks_for_sweep, check_words, in_words
from clora_exp.errors import CloraError, Interrupted
from clora_exp.help import answer


def cli() -> int:
    """Compose, check, run; return the exit status.

    0; 1 where a run is not reproduced, or a job of a sweep ended in a bug; 2 after one clear line about what the user
    can mend; 128 + the signal's number when stopped by one.
    """
    mistakes: list[Exception] = []
    findings: list[str] = []
    is_composed = False

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> None:
        nonlocal is_composed
        is_composed = True
        overrides = typed()
        try:
            finding = carry_out(checked(composed, overrides), in_a_shell(overrides))
            if finding is not None:
                findings.append(finding)
        except Interrupted as stop:  # as an ordinary Ctrl-C
            if processes.rank() == 0:
                again = in_a_shell(overrides)
                print(f"\n{stop}; finished tasks are kept, the same command goes on: {again}", file=sys.stderr)
            raise KeyboardInterrupt(stop.signal_number) from stop
        except CloraError as mistake:  # kept: Hydra would print lines of its own around it
            mistakes.append(mistake)

    if processes.world_size() > 1 and {"-m", "--multirun"} & set(sys.argv):
        print(f"error: {processes.NO_SWEEP}", file=sys.stderr)
        return 2
    words = sys.argv[1:]
    try:
        text = answer(words)
        if text is None:
            check_words(words)
        if text is None and asks_for_sweep(words):
            from clora_exp.sweeps.sweep import sweep

            is_composed = True  # it has words for what does not compose
            return sweep(words)
        print(text, flush=True) if text is not None else job()
    except CloraError as mistake:
        mistakes.append(mistake)
    except BrokenPipeError:  # who reads, e.g. head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        return 141  # what a shell says of SIGPIPE
    except Exception as error:
        if is_composed:
            raise
        mistakes.append(in_words(error, words))
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        if not isinstance(stop.__cause__, Interrupted) and processes.rank() == 0:  # before training, or after it
            again = in_a_shell(words)
            print(f"\nstopped by {signal.Signals(number).name}; the same command goes on: {again}", file=sys.stderr)
        return 128 + number
    for mistake in mistakes if processes.rank() == 0 else ():
        print(f"error: {mistake}", file=sys.stderr)
    for finding in findings:
        print(finding, file=sys.stderr)
    return 2 if mistakes else 1 if findings else 0


def interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end what is being prepared as Ctrl-C does; in training `clora_exp/interrupts.py` takes over."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print and end with status 1
    sys.exit(cli())
