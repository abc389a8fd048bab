"""What a person sees of runs: the terminal now; figures and reports read the run directory."""
