"""See the dynamics live: a local page, or the same page as a Space. It needs gradio, ``pip install 'robustdeq[view]'``.

``look`` and ``shown`` know no page, ``page`` is for one's own app, ``serve`` shows it.
"""

from .examples import first_images, read_images, save_images
from .look import Look, Settings, Stopped, Watch, look
from .serving import check_viewed, serve, write_space

__all__ = [
    "Look", "Settings", "Stopped", "Watch", "check_viewed", "first_images", "look", "read_images", "save_images",
    "serve", "write_space",
]  # fmt: skip
