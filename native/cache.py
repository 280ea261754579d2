"""Where prepared services are kept between runs: the user's cache folder."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder(service: str) -> Path:
    """The folder of one service, such as ~/.cache/stepclock/kafka (moved by XDG_CACHE_HOME)."""
    return platformdirs.user_cache_path("stepclock") / service
