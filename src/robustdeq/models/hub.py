"""What every model shares: it knows the config it was made from and can be saved, loaded and pushed to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import PyTorchModelHubMixin
from torch import nn

M = TypeVar("M", bound="HubModule")


class HubModule(nn.Module, PyTorchModelHubMixin, library_name="robustdeq"):
    """``from_pretrained`` / ``save_pretrained`` / ``push_to_hub`` with config.json and model.safetensors.

    config: the plain dict that ``create_model`` made the model from; None for a model put together by hand.
    """

    config: dict[str, Any] | None = None

    def __new__(cls, *args: Any, **kwargs: Any):
        """Nothing but the object: the mixin would keep the arguments as a second config."""
        return object.__new__(cls)

    def _save_pretrained(self, save_directory: Path) -> None:
        from .zoo import save_model

        save_model(self, save_directory)

    @classmethod
    def from_pretrained(cls: type[M], pretrained_model_name_or_path: str | Path, *, map_location: Any = "cpu",
                        revision: str | None = None, cache_dir: str | Path | None = None, force_download: bool = False,
                        local_files_only: bool = False, token: str | bool | None = None,
                        **overrides: Any) -> M:  # fmt: skip
        """``load_model`` with the hub's own options. Raises a ValueError if the model is of another class than this."""
        from .zoo import load_model, model_folder

        folder = model_folder(
            pretrained_model_name_or_path, revision=revision, cache_dir=cache_dir, force_download=force_download,
            local_files_only=local_files_only, token=token,
        )  # fmt: skip
        model = load_model(folder, **overrides)
        if not isinstance(model, cls):
            raise ValueError(f"{folder} holds a {type(model).__name__}; allowed: a {cls.__name__} (or use load_model).")
        return model.to(map_location)
