"""What fetching works with, beside the row."""

from __future__ import annotations

from dataclasses import dataclass, field

from lvg_data.config import Card, LimitsConfig
from lvg_data.store import Store


@dataclass(frozen=True)
class Desk:
    """Where files go, and how they are asked for.

    Attributes:
      min_height: pixels; of several formats the smallest at least this high is taken.
      max_frame_rate: formats with more frames per second are left out.
      run: name of the run; in each process its hosts share one record of what was asked of them.
      cookies: path of a cookies file; never logged, stored or hashed.
      private_addresses: whether hosts of this machine and of private networks may be asked, see `peers`.
    """

    store: Store
    limits: LimitsConfig
    min_height: int
    max_frame_rate: float
    run: str = ""
    cookies: str | None = field(default=None, repr=False)
    private_addresses: bool = False

    @classmethod
    def of(
        cls,
        card: Card,
        store: Store,
        run: str = "",
        cookies: str | None = None,
        private_addresses: bool = False,
    ) -> Desk:
        height = round(card.high.height * card.download.height_margin)
        return cls(store, card.limits, height, card.download.max_frame_rate, run, cookies, private_addresses)
