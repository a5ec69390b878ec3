"""A solver of your own: it trains, is attacked, evaluated, saved and loaded, without an edit of this package.

    python examples/solver_of_your_own.py
"""

import tempfile
from dataclasses import dataclass

import torch

import robustdeq as rd
from robustdeq.dynamics import Solver, SolverState
from robustdeq.training import Phase, TrainConfig, Trainer


@dataclass(frozen=True)
class Slowing(Solver[SolverState]):
    """Picard steps that become shorter: z <- z + first / (t + 1)^power (f(z) - z)."""

    name = "slowing"
    first: float = 0.8
    power: float = 0.5

    def step(self, f, state):
        f_z = f(state.z)
        size = self.first / (state.t + 1) ** self.power
        return SolverState(state.z + size * (f_z - state.z), state.t + 1, state.z, f_z)


splits = rd.data.load("digits")
model = rd.create_model("mdeq-nano", solver=Slowing(), steps=5, seed=0)
config = TrainConfig(phases=[Phase(epochs=2, attack_steps=1, step_size=0.1)], eps=0.1, learning_rate=8e-3)
with tempfile.TemporaryDirectory() as folder:
    Trainer(model, splits.train, config, folder).run()
    rd.save_model(model, f"{folder}/model")
    again = rd.load_model(f"{folder}/model", solver=Slowing())  # no file brings in code: the object is yours to give

x, y = splits.test.images()[:50], splits.test.labels[:50]
assert torch.equal(again(x), model(x))
print(rd.evaluate(again, x, y, suite="quick", threat=rd.Linf(0.1)).table())
# Its tests: class TestSlowing(robustdeq.testing.SolverLaws): solver = Slowing()
