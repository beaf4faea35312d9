"""Groups the ledger's requests into conversations: what each opening cost with its later turns.

A request without an assistant turn opens a conversation. A later turn belongs to the latest opening
of its draw. Identical openings share a draw, so their later turns may go to another opening than
their own, but to one of the same arm: sums over a draw stay exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.arrays import BoolArray, Float64Array, Int64Array

MEASURES = ("grams", "energy_joules", "completion_tokens")
COLUMNS = (
    *("time", "conversation", "keyed_by", "opening", "lottery", "mode", "outcome"),
    *("hold_out", "hold_out_ratio", "task", "characters", "intensity_g_per_kwh"),
    *("intensity_kind", "energy_method", "energy_error_joules"),
    *MEASURES,
)
_STEERING_MODES = ("on", "canary")


@dataclass(frozen=True)
class Openings:
    """Conversations that were randomised at their opening.

    Attributes:
        columns: values of the opening requests by column, shape (n,) each.
        draw: draw of each opening, numbered from 0, shape (n,).
        turns: number of turns of each conversation, shape (n,).
        costs: cost of each conversation in each of `MEASURES`; NaN if a turn's is unknown.
        energy_errors: standard errors of the conversations' joules, J; NaN if one is unknown.
        turn_openings: opening of each turn, numbered from 0, shape (turns,).
        turn_outcomes: how each turn ended, shape (turns,).
        turn_energy_methods, turn_intensity_kinds: labels of each turn, shape (turns,).
        orphans: later turns whose opening is not in the data.
        unsettled: openings that are too recent.
    """

    columns: Mapping[str, Any]
    draw: Int64Array
    turns: Int64Array
    costs: Mapping[str, Float64Array]
    energy_errors: Float64Array
    turn_openings: Int64Array
    turn_outcomes: Any
    turn_energy_methods: Any
    turn_intensity_kinds: Any
    orphans: int
    unsettled: int

    @property
    def held_out(self) -> BoolArray:
        """Mask of the openings that were held out, shape (n,)."""
        return np.array(self.columns["hold_out"], dtype=bool)

    @property
    def measured(self) -> BoolArray:
        """Mask of the conversations of which all costs are known, shape (n,)."""
        costs = np.array([self.costs[measure] for measure in MEASURES])
        known: BoolArray = np.all(np.isfinite(costs), axis=0)
        return known

    def at(self, mask: BoolArray) -> "Openings":
        """Return the openings of a mask, shape (n,)."""
        draw = np.unique(self.draw[mask], return_inverse=True)[1]
        turn_mask = mask[self.turn_openings]
        number = np.cumsum(mask) - 1
        return Openings(
            {name: values[mask] for name, values in self.columns.items()},
            draw,
            self.turns[mask],
            {measure: cost[mask] for measure, cost in self.costs.items()},
            self.energy_errors[mask],
            number[self.turn_openings[turn_mask]],
            self.turn_outcomes[turn_mask],
            self.turn_energy_methods[turn_mask],
            self.turn_intensity_kinds[turn_mask],
            self.orphans,
            self.unsettled,
        )


def group_openings(
    rows: Iterable[Sequence[Any]], since: float, until: float, settled_before: float
) -> Openings:
    """Return the conversations of ledger rows.

    Args:
        rows: rows with `COLUMNS`, in any order. Earlier ones tell which conversations had opened
            before; of later ones only the later turns count.
        since, until: start and end of the period, Unix seconds.
        settled_before: openings from this time on are left out, because later turns of theirs may
            still come; Unix seconds.
    """
    known = [row for row in rows if row[COLUMNS.index("conversation")] is not None]
    table = _table(known)
    _, draw = np.unique(table["conversation"].astype(str), return_inverse=True)
    order = np.lexsort((table["time"].astype(float), draw))
    table, draw = {name: values[order] for name, values in table.items()}, draw[order]
    is_first = np.append(True, draw[1:] != draw[:-1]) if len(draw) else np.zeros(0, bool)
    # Where the request does not tell, the first one of the draw is taken for the opening.
    unknown = np.array([value is None for value in table["opening"]], dtype=bool)
    opens = np.where(unknown, is_first, table["opening"].astype(bool))
    rank = np.arange(len(draw))
    opened_by = np.maximum.accumulate(np.where(opens, rank, -1)) if len(draw) else rank
    has_opening = (opened_by >= 0) & (draw[opened_by] == draw)
    randomised = opens & _is_randomised(table)
    time = table["time"].astype(float)
    settled = (time >= since) & (time < settled_before)
    within = (time >= since) & (time < until)
    counted_opening = has_opening & (time[opened_by] >= since)
    counted = has_opening & (randomised & settled)[opened_by]
    starts = np.flatnonzero(randomised & settled)
    number = np.searchsorted(starts, opened_by[counted])
    turn = {name: values[counted] for name, values in table.items()}
    total = {name: _sums(turn[name], number, len(starts)) for name in MEASURES}
    return Openings(
        {name: values[starts] for name, values in table.items()},
        np.unique(draw[starts], return_inverse=True)[1],
        np.bincount(number, minlength=len(starts)),
        total,
        _sums(turn["energy_error_joules"], number, len(starts)),
        number,
        turn["outcome"],
        turn["energy_method"],
        turn["intensity_kind"],
        int((~counted_opening & ~opens & within).sum()),
        int((randomised & ~settled & within).sum()),
    )


def _table(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the columns as arrays of objects, shape (n,) each."""
    table = np.empty((len(rows), len(COLUMNS)), dtype=object)
    if rows:
        table[:] = rows
    return dict(zip(COLUMNS, table.T, strict=True))


def _is_randomised(table: Mapping[str, Any]) -> BoolArray:
    """Return whether each request was randomised and sent, shape (n,)."""
    ratio = table["hold_out_ratio"].astype(float)
    randomised: BoolArray = (
        table["lottery"].astype(bool)
        & np.isin(table["mode"].astype(str), _STEERING_MODES)
        & (table["outcome"] != "decided")
        & (ratio > 0)
        & (ratio < 1)
    )
    return randomised


def _sums(values: Any, number: Int64Array, count: int) -> Float64Array:
    """Return the sums of values by number, shape (count,); NaN where one is None."""
    return np.bincount(number, values.astype(float), minlength=count).astype(np.float64)
