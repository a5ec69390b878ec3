"""What every model shares: it knows the config it was made from and can be saved, loaded and pushed to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import nn


class HubModule(nn.Module, PyTorchModelHubMixin, library_name="robustdeq"):
    """``from_pretrained`` / ``save_pretrained`` / ``push_to_hub`` with config.json and model.safetensors.

    config: the plain dict that ``create_model`` made the model from; None for a model put together by hand.
    """

    config: dict[str, Any] | None = None

    def _save_pretrained(self, save_directory: Path) -> None:
        from .zoo import save_model

        save_model(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision=None, cache_dir=None, force_download=False, local_files_only=False,
                         token=None, map_location="cpu", strict=True, **options: Any):  # fmt: skip
        from .zoo import load_model

        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id, revision=revision, cache_dir=cache_dir, force_download=force_download, token=token,
                    local_files_only=local_files_only, allow_patterns=["config.json", "model.safetensors"],
                )
            )  # fmt: skip
        return load_model(folder, **options).to(map_location)
