"""Adversarial training on images of your own: train/CLASS/*.png and test/CLASS/*.png, or parquet files.

    python examples/images_of_your_own.py path/to/folder
"""

import sys
import tempfile
from pathlib import Path

import robustdeq as rd
from robustdeq.training import Phase, TrainConfig, Trainer


def example_folder(folder):
    """Some digits as PNG files, where no folder was given."""
    from PIL import Image

    digits = rd.data.digits()
    for split, images in (("train", digits.train.take(slice(300))), ("test", digits.test.take(slice(60)))):
        for number, (pixels, label) in enumerate(zip(images.images(), images.labels)):
            place = Path(folder) / split / f"digit {label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels[0] * 255).byte().numpy()).save(place / f"{number}.png")
    return folder


with tempfile.TemporaryDirectory() as scratch:
    source = sys.argv[1] if len(sys.argv) > 1 else example_folder(scratch)
    splits = rd.data.load(source, validation=50, image_size=8)  # every image becomes a square of this side
    channels, side = splits.train.images(slice(1)).shape[1:3]
    print(len(splits.train), "training images of", splits.train.classes)

    shape, classes = (channels, side, side), len(splits.train.classes)
    model = rd.create_model("mdeq-nano", num_classes=classes, image_shape=shape, seed=0)
    model.classes = splits.train.classes  # saved with the model; an evaluation on other classes is refused
    config = TrainConfig(
        phases=[Phase(epochs=4, attack_steps=1, step_size=0.06, solver_steps=4)],  # one-step attacks on short solves
        eps=0.05, batch_size=50, learning_rate=8e-3, states="random", pad=1, validation_points=50, validation_steps=5,
    )  # fmt: skip
    run = Path("runs/mine") if len(sys.argv) > 1 else Path(scratch) / "run"
    Trainer(model, splits.train, config, run, splits.validation).run()  # a killed run goes on from its last checkpoint
    rd.save_model(model, run / "model")
    print(rd.evaluate(model, splits.test.take(slice(40)), suite="quick", threat=config.threat).table())
