"""The energy that learning a task takes, by codecarbon, which is installed and asked for or not imported at all.

Counted is what CPU and GPU take; codecarbon's figure for memory is a constant by its size, and left out.
`measured`: the processor's counter (RAPL) and the GPU's (NVML) were read, of the whole processor and of the GPU the run
is on; `estimated`: of the processor it is this process's share of its time, times what such a one may draw at most.

No network: the offline tracker asks for no place and no cloud, what would send or look up is set here, whatever a
`.codecarbon.config` says, and with a fixed intensity of carbon nothing is looked up by country. Emissions are not kept.
"""

import importlib.util
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from clora_exp.errors import ConfigError

log = logging.getLogger("clora_exp")

JOULES = 3.6e6  # a kWh
OFF = "off"
COUNTERS = ("intel_rapl", "windows_emi", "intel_power_gadget")  # codecarbon's names of what is read, not estimated
EVERY_S = 15.0  # between samples: a counter of RAPL runs over in some tens of minutes


@dataclass(frozen=True)
class Energy:
    """Joules, or None; `source` is measured, estimated, off, or "unknown: " and why."""

    joules: float | None = None
    source: str = OFF


def check_energy(is_asked_for: bool) -> None:
    """Look whether energy can be counted, before any work.

    Raises:
        ConfigError: it is asked for, and codecarbon is not installed.
    """
    if is_asked_for and importlib.util.find_spec("codecarbon") is None:
        raise ConfigError("trainer.energy=true: needs codecarbon; pip install -e '.[energy]' -c constraints.txt")


class EnergyMeter:
    """Counts the energy of one span at a time, `start` to `stop`, as a context; where it is off it costs nothing.

    What machine this is, is found when the context begins, once a process: seconds, outside of what is counted.
    """

    def __init__(self, is_on: bool, device: torch.device) -> None:
        self._is_on, self._device = is_on, device
        self._tracker: Any = None

    def __enter__(self) -> "EnergyMeter":
        if self._is_on:
            self.start()
            log.info("energy of learning: %s", self.stop().source)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting without a result, where training was stopped."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.stop()

    def start(self) -> None:
        """Count from here."""
        if self._is_on:
            self._tracker = _tracker(self._device)
            self._tracker.start()

    def stop(self) -> Energy:
        """Return what has been counted since `start`."""
        tracker, self._tracker = self._tracker, None
        if not self._is_on:
            return Energy()
        if tracker is None:
            return Energy(None, "unknown: it was not counted from the start")
        tracker.stop()
        found = getattr(tracker, "final_emissions_data", None)  # codecarbon keeps its errors to itself
        parts = [part for part in getattr(tracker, "_hardware", []) if type(part).__name__ != "RAM"]
        on_gpu = self._device.type == "cuda"
        gpus = [part for part in parts if type(part).__name__ == "GPU" and part.gpu_ids]
        if found is None or not parts or (on_gpu and not gpus):
            what = "the GPU" if on_gpu and not gpus else "this machine"
            return Energy(None, f"unknown: codecarbon cannot read {what}")
        is_measured = all(_is_counter(part) for part in parts if on_gpu or type(part).__name__ != "GPU")
        joules = (found.cpu_energy + found.gpu_energy) * JOULES
        return Energy(round(joules, 3), "measured" if is_measured else "estimated")


def _tracker(device: torch.device) -> Any:
    """Return a tracker of this process and its device that neither writes, sends nor asks anything."""
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return OfflineEmissionsTracker(
        country_iso_code="USA",  # one must be named; it decides nothing of the energy
        region=None,
        cloud_provider=None,
        cloud_region=None,
        force_carbon_intensity_g_co2e_kwh=0,
        electricitymaps_api_token=None,
        emissions_endpoint=None,
        output_methods=[],
        output_handlers=[],
        tracking_mode="process",
        gpu_ids=_gpus(device),
        measure_power_secs=EVERY_S,
        allow_multiple_runs=True,  # else it takes over the run's signals, and locks the machine
        log_level="critical",
    )


def _gpus(device: torch.device) -> list[int]:
    """Return NVML's number of the GPU the run is on; of a run on the CPU none, however many there are.

    The number, for codecarbon 3.3 does not find a GPU by the whole of its UUID.
    """
    if device.type != "cuda":
        return []
    with suppress(Exception):  # what cannot be read is said in the source of the figure
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return [int(pynvml.nvmlDeviceGetIndex(handle))]
    return []


def _is_counter(part: Any) -> bool:
    return type(part).__name__ in ("GPU", "AppleSiliconChip") or getattr(part, "_mode", "") in COUNTERS
