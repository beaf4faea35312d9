"""Sets how many of each cell's requests are sampled: evenly, and within the energy limit."""

import math
from dataclasses import dataclass

from serving.quality.cell import Cell

# Evidence of the traffic halves in weight within this time, s.
_HALF_LIFE_SECONDS = 86400.0
# Samples from which on the traffic is known well enough to change the shares.
_FEWEST = 50
# Least factor by which the shares follow judges that are too slow, at a time; and the factor by
# which they rise again.
_LEAST_PACE, _FASTER = 0.1, 1.1
# No cell is left without evidence for ever.
_LEAST_SHARE = 1e-4


@dataclass
class _Volume:
    """Traffic of a cell, as its samples tell it: each stands for 1 / probability requests.

    Attributes:
        requests: number of requests.
        joules: energy of those of which it is known, with that of judging them, J.
        samples: number of samples.
        cost: energy of judging these, J.
    """

    requests: float = 0.0
    joules: float = 0.0
    samples: float = 0.0
    cost: float = 0.0


class Shares:
    """Shares by cell.

    In sum they sample `share` of all requests, as many of each cell, so that a rare task is known
    as well as a frequent one. Where judging them would take more than `energy_share` of the
    traffic's energy, or judges are too slow, all shares shrink by the same factor. A cell's share
    changes in time only, and not with the request, so that each request's probability is known.

    Args:
        share: share of all requests.
        energy_share: largest energy of judging, relative to the traffic's.
    """

    def __init__(self, share: float, energy_share: float) -> None:
        self._share = share
        self._energy_share = energy_share
        self._cells: dict[Cell, _Volume] = {}
        self._aged = 0.0
        # Share of the samples that the judges keep up with, and counts since it was set.
        self._pace = 1.0
        self._judged = self._dropped = 0

    def saw(self, cell: Cell, probability: float, joules: float | None, cost: float | None) -> None:
        """Count a judged sample.

        Args:
            joules: energy of the served answer, J; None if unknown.
            cost: energy of judging it, J; None if unknown.
        """
        self._judged += 1
        volume = self._cells.setdefault(cell, _Volume())
        volume.requests += 1 / probability
        volume.samples += 1
        if joules is not None and cost is not None:
            volume.joules += joules / probability
            volume.cost += cost

    def dropped(self) -> None:
        """Count a sample for which there was no room."""
        self._dropped += 1

    def age(self, now: float) -> None:
        """Let the evidence fade, and follow the judges' pace; `now` in Unix seconds."""
        if self._dropped:
            self._pace *= max(_LEAST_PACE, self._judged / (self._judged + self._dropped))
        else:
            self._pace = min(1.0, self._pace * _FASTER)
        self._judged = self._dropped = 0
        factor = 0.5 ** ((now - self._aged) / _HALF_LIFE_SECONDS) if self._aged else 1.0
        self._aged = now
        for volume in self._cells.values():
            volume.requests *= factor
            volume.joules *= factor
            volume.samples *= factor
            volume.cost *= factor

    def by_cell(self) -> dict[Cell, float]:
        """Return each cell's share; empty as long as the traffic is not known well enough."""
        cells = {cell: v for cell, v in self._cells.items() if v.samples > 0 and v.requests > 0}
        if sum(volume.samples for volume in cells.values()) < _FEWEST:
            return {}
        left = self._share * sum(volume.requests for volume in cells.values())
        samples: dict[Cell, float] = {}
        # Water filling, from the rarest cell on: what a cell cannot use goes to the others.
        for place, cell in enumerate(sorted(cells, key=lambda each: cells[each].requests)):
            samples[cell] = min(cells[cell].requests, left / (len(cells) - place))
            left -= samples[cell]
        cost = sum(n * cells[cell].cost / cells[cell].samples for cell, n in samples.items())
        limit = self._energy_share * sum(volume.joules for volume in cells.values())
        factor = self._pace * (min(1.0, limit / cost) if cost > 0 else 1.0)
        return {
            cell: _rounded(max(_LEAST_SHARE, min(1.0, factor * n / cells[cell].requests)))
            for cell, n in samples.items()
        }


def _rounded(share: float) -> float:
    """Return a share to two digits, so that it does not change with every sample."""
    digits = 1 - math.floor(math.log10(share))
    return min(1.0, round(share, digits))
