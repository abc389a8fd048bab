"""Many tasks on one frozen base: versions in a folder that anyone can read, small, checked, never the wrong one."""
