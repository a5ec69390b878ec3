"""A deep equilibrium model of your own: an injection, a cell and a readout.

    python examples/deq_of_your_own.py
"""

import torch
from torch import nn

import robustdeq as rd


class ConvCell(nn.Module):
    """f(z; u) on packed states (B, 512): a row is a sample, and nothing flows between rows."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8)

    def forward(self, z, u):
        return torch.tanh(0.5 * self.norm(self.conv(z.view(-1, 8, 8, 8))) + u).flatten(1)


torch.manual_seed(0)
inject, readout = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(512, 10)
model = rd.DEQClassifier(inject, ConvCell(), readout, state_shapes=[(8, 8, 8)], solver="anderson", steps=6)

splits = rd.data.load("digits")
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)  # or robustdeq.training.Trainer
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(splits.train.images()[:256]), splits.train.labels[:256]).backward()
    optimizer.step()
model.eval()

x, y = splits.test.images()[:50], splits.test.labels[:50]
print("relative residual of z^[0] ... z^[5]:", model.trajectory(x).residuals.median(dim=1).values)
print(rd.evaluate(model, x, y, suite="quick", threat=rd.Linf(0.1)).table())
