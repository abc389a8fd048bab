"""Many runs by one command, `python run.py -m …`: what is missing is run, what fails is said. Start in `sweep.py`."""
