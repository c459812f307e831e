"""The generated first-person rides, as a source that needs nothing from anywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from lvg_data import ids
from lvg_data.config import Card, RidesSource
from lvg_data.records import Address, Source
from lvg_data.sources.place import Place


def list_sources(config: RidesSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a ride. The first use writes them to the user's cache, which takes about a minute."""
    from lvg_data import demo

    rides = demo.demo_rides(config.seed)
    cache = Path(platformdirs.user_cache_dir("lvg")) / f"rides-{demo.VERSION}-{config.seed}"
    if not (cache / "truth.json").is_file():
        print(f"generating {len(rides)} rides in {cache}", file=sys.stderr)
        demo.write_demo_videos(cache, rides)
    for ride in rides:
        yield Source(
            video_id=ids.video_id(["rides", config.seed, ride.name]),
            origin=f"rides/{config.seed}/{ride.name}",
            media=Address(str(cache / f"{ride.name}.mp4")),
            licence=card.licence,
            attribution=card.attribution,
        )
