"""How hard properties are tried: `suite` draws the same examples in every run, `search` many others in each.

HYPOTHESIS_PROFILE=search looks for what the suite has not found.
"""

import os

from hypothesis import HealthCheck, settings

_NO_CLOCK = {"deadline": None, "suppress_health_check": list(HealthCheck)}  # a shared machine is slow at times

settings.register_profile("suite", derandomize=True, max_examples=40, **_NO_CLOCK)
settings.register_profile("search", max_examples=2000, **_NO_CLOCK)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
