"""What a person sees of runs: the terminal while they go on, figures and a page when they are done."""
