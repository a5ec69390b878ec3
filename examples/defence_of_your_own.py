"""A test-time defence of your own, judged honestly: under attacks that know it, beside those that do not.

    python examples/defence_of_your_own.py
"""

import tempfile

import robustdeq as rd
from robustdeq.defences import Defended
from robustdeq.training import Phase, TrainConfig, Trainer


class Quantised(Defended):
    """Rounds pixels to a few grey levels before the model sees them. Its own gradient is zero almost everywhere."""

    def __init__(self, model, levels=4):
        super().__init__(model, {"levels": levels})  # what the record shows
        self.levels = levels

    def forward(self, x):
        """The deployed value. Rounding has no useful gradient, so it is held constant on the way back (BPDA)."""
        rounded = (x * (self.levels - 1)).round() / (self.levels - 1)
        return self.model(x + (rounded - x).detach())


splits = rd.data.load("digits")
model = rd.create_model("mdeq-nano", num_classes=10, steps=4, seed=0)
config = TrainConfig(phases=[Phase(epochs=3, attack_steps=0)], learning_rate=8e-3, seed=0)
with tempfile.TemporaryDirectory() as folder:
    Trainer(model, splits.train, config, folder).run()

x, y = splits.test.images()[:30], splits.test.labels[:30]
threat, defended = rd.Linf(0.1), Quantised(model)
bare = rd.evaluate(model, x, y, suite="quick", threat=threat)
budget = {"steps": 5, "restarts": 1, "attacks": ["apgd-ce"], "iterations": 5, "queries": 50, "checks": 0}
result = rd.evaluate(defended, x, y, suite="adaptive", threat=threat, **budget)
# "static" is what a paper that forgets its attacker reports. "All" is what stands every threat setting.
print(result.table(beside=bare))
