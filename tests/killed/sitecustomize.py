"""Every Python process that has this folder in PYTHONPATH begins here: also those that a launcher or a pool starts."""

import deaths

deaths.arm_from_environment()
