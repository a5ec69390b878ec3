"""See the dynamics live: a local page, or the same page as a Space. It needs gradio, ``pip install 'robustdeq[view]'``.

``look`` and ``shown`` know no page, ``page`` is for one's own app, ``serve`` shows it.
"""

from .examples import first_images as first_images
from .examples import read_images as read_images
from .examples import save_images as save_images
from .look import Look as Look
from .look import Settings as Settings
from .look import Stopped as Stopped
from .look import Watch as Watch
from .look import look as look
from .serving import check_viewed as check_viewed
from .serving import serve as serve
from .serving import write_space as write_space
