"""Attack and evaluate any classifier: a torch module with logits = module(images), images in [0, 1].

    python examples/attack_and_evaluate.py
"""

import torch
from torch import nn

import robustdeq as rd

# Your model and your images. Normalisation belongs into the model, since the ball and the box are those of pixels.
splits = rd.data.load("digits")  # or a folder of parquet files or images, or a name on the Hugging Face hub
x, y = splits.test.images()[:100], splits.test.labels[:100]
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(splits.train.images()), splits.train.labels).backward()
    optimizer.step()
model.eval()

threat = rd.Linf(0.1)

# One attack by hand. A sample's random start depends on the seed and its place only.
attack = rd.attacks.PGD(threat, step_size=0.025, steps=20, loss="dlr", seed=0)
x_adv = attack(model, x, y)
print("stand PGD-20 on the DLR loss:", int((model(x_adv).argmax(1) == y).sum()), "of", len(y))

# A suite: every image is verified by the deployed forward; "All" survives every attack; red flags say what to distrust.
result = rd.evaluate(model, x, y, suite="standard", threat=threat, attacks=["apgd-ce", "apgd-t"], iterations=20)
print(result.table())
