"""Train, attack, defend, evaluate and look into deep equilibrium models (DEQs)."""

__version__ = "0.1.0"
