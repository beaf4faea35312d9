"""`sprout frontier`: what each quality floor saves, from a bundle alone."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.table import Table

from agents.policy.bundle import Bundle, load_bundle
from agents.policy.front import Curve, Front
from agents.policy.pricing import Floors, floors_from
from envs.carbon.footprint import JOULES_PER_KWH
from envs.errors import ConfigError
from envs.money import SHIPPED, Tariff, read_tariff
from envs.outcomes.floors import untagged_name
from envs.outcomes.stated_floors import ANY_TASK, read_floors
from experiments.console import table_console
from experiments.settings import Settings, write_json
from serving.proportions import Z95

# Floors that the table shows beside the policy's own.
SHOWN = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
_THOUSAND = 1000


class Frontier(Settings):
    """Print what each quality floor saves, task by task, and draw the trade-off.

    Everything comes from the bundle: its policy was measured at every price on verdicts that it
    was not trained on. --floor adds floors of your own: what would they cost or save?
    """

    policy: CliPositionalArg[Path] = Field(description="folder of the policy bundle")
    floor: str | None = Field(
        None, description="floors to ask about: a ratio, TASK=RATIO,... or a YAML file"
    )
    zone: str | None = Field(
        None, description="zone, if the policy was trained for several; default: its only one"
    )
    task_tags: bool = Field(True, description="for requests that show their task's tag")
    tariff: Path = Field(
        SHIPPED, description="YAML file of what energy and a device's time cost in money"
    )
    out: Path | None = Field(None, description="file for the picture (PNG)")
    json_path: Path | None = Field(None, alias="json", description="file for the result as JSON")

    def cli_cmd(self) -> None:
        """Print the table, draw the picture, and write the result as JSON if asked to."""
        bundle = load_bundle(self.policy)
        front, zone = self._front(bundle)
        tariff = read_tariff(self.tariff)
        asked = Floors() if self.floor is None else self._asked(bundle)
        tasks = [
            _Task.of(task, bundle, zone, asked, tariff, tagged=self.task_tags)
            for task in _tasks(front, zone, bundle)
        ]
        console = table_console()
        for task in tasks:
            console.print(task.table(zone, tariff.currency))
        if self.floor is not None:
            for line in _what_if(tasks):
                console.print(line)
        if self.out is not None:
            draw(zone, tasks, self.out)
            print(f"picture: {self.out}")
        write_json(
            self.json_path,
            {
                "schema": 1,
                "policy": bundle.version,
                "zone": zone,
                "tagged": self.task_tags,
                "currency": tariff.currency,
                "confidence": front.confidence,
                "tasks": {task.name: [asdict(row) for row in task.rows] for task in tasks},
            },
        )

    def _front(self, bundle: Bundle) -> tuple[Front, str]:
        if (front := bundle.front) is None:
            raise ConfigError(
                f"{self.policy}: the policy has no front, because it does not observe prices; "
                "give a bundle of `sprout train`"
            )
        if front.schedule.edges:
            raise ConfigError(
                f"{self.policy}: its floors follow the grid (--floor-slack), so a task has no "
                "single front; train without --floor-slack"
            )
        zones = list(front.zones)
        if self.zone is None and len(zones) > 1:
            raise ConfigError(f"--zone: the policy has several; give one of {', '.join(zones)}")
        zone = zones[0] if self.zone is None else self.zone
        if zone not in front.zones:
            raise ConfigError(f"--zone {zone}: not measured; give one of {', '.join(zones)}")
        return front, zone

    def _asked(self, bundle: Bundle) -> Floors:
        assert self.floor is not None
        ratios = read_floors(self.floor)
        known = bundle.featurizer.tasks
        if unknown := [task for task in ratios if task not in (*known, ANY_TASK)]:
            raise ConfigError(
                f"--floor {self.floor}: no task {unknown[0]!r}; the tasks are {', '.join(known)}"
            )
        return floors_from(ratios, "start")


@dataclass(frozen=True)
class Row:
    """Figures of a task at one floor; costs are means per request.

    Attributes:
        floor: least quality relative to L0.
        origin: "policy" for its own floor, "asked" for one of --floor, or "".
        price: price of quality.
        l0_share: share of requests left at L0 because no price reaches the floor.
        limits_kept: False if the task's latency limits cannot be kept together with the floor.
        quality, quality_ci95: quality relative to L0 that the training's verdicts show.
        saving_pct, saving_ci95: footprint saved relative to always L0, %.
        grams: footprint, gCO2e.
        kwh: energy, kWh.
        tokens: generated tokens.
        seconds: latency, s.
        money: cost in the tariff's currency.
    """

    floor: float
    origin: str
    price: float
    l0_share: float
    limits_kept: bool
    quality: float
    quality_ci95: tuple[float, float]
    saving_pct: float
    saving_ci95: tuple[float, float]
    grams: float
    kwh: float
    tokens: float
    seconds: float
    money: float


@dataclass(frozen=True)
class _Task:
    name: str
    curve: Curve
    rows: list[Row]

    @classmethod
    def of(
        cls, task: str, bundle: Bundle, zone: str, asked: Floors, tariff: Tariff, *, tagged: bool
    ) -> "_Task":
        """Return a task's figures at the floors of the table."""
        front = bundle.front
        assert front is not None
        own = bundle.pricing(zone).trained.get(task)
        floors = dict.fromkeys(SHOWN, "")
        if own is not None:
            floors[own] = "policy"
        if (floor := asked.of(task, {})) is not None:
            floors[floor.ratio] = "asked" if floor.ratio != own else "policy"
        name = task if tagged else untagged_name(task)
        rows = [_row(front, zone, name, floor, floors[floor], tariff) for floor in sorted(floors)]
        return cls(task, front.zones[zone][name], rows)

    def table(self, zone: str, currency: str) -> Table:
        """Return the task's floors as a table."""
        view = Table(
            title=f"{self.name}, zone {zone}", title_justify="left", box=None, pad_edge=False
        )
        columns = ("floor", "", "price", "saving %", "quality / L0", "tokens", "s")
        for column in (*columns, f"{currency} and kWh per 1,000"):
            view.add_column(column, justify="right" if column else "left", no_wrap=True)
        for row in self.rows:
            left = f" + {100 * row.l0_share:.0f}% L0" if row.l0_share else ""
            view.add_row(
                f"{row.floor:g}",
                row.origin,
                f"{row.price:.3g}{left}",
                f"{row.saving_pct:.1f} [{row.saving_ci95[0]:.1f}, {row.saving_ci95[1]:.1f}]",
                f"{row.quality:.3f} [{row.quality_ci95[0]:.3f}, {row.quality_ci95[1]:.3f}]",
                f"{row.tokens:.0f}",
                f"{row.seconds:.2f}{'' if row.limits_kept else ', over its limit'}",
                f"{_THOUSAND * row.money:.3g}, {_THOUSAND * row.kwh:.3g}",
            )
        return view


def _row(front: Front, zone: str, name: str, floor: float, origin: str, tariff: Tariff) -> Row:
    point = front.point(zone, name, floor)
    figures = front.figures(zone, name, point)
    saving, spread = 100 * (1 - figures["grams_ratio"]), 100 * Z95 * figures["grams_error"]
    quality, error = figures["quality"], Z95 * figures["quality_error"]
    money = tariff.cost(figures["joules"], figures["device_seconds"])  # type: ignore[arg-type]
    return Row(
        floor,
        origin,
        math.exp(point.log_price),
        point.l0_share,
        point.limits_kept,
        quality,
        (quality - error, quality + error),
        saving,
        (saving - spread, saving + spread),
        figures["grams"],
        figures["joules"] / JOULES_PER_KWH,
        figures["completion_tokens"],
        figures["latency_seconds"],
        float(money),
    )


def _tasks(front: Front, zone: str, bundle: Bundle) -> list[str]:
    return [task for task in bundle.featurizer.tasks if task in front.zones[zone]]


def _what_if(tasks: list[_Task]) -> list[str]:
    """Return what the asked floors change against the policy's own, by task and in all.

    All is the profile's mix of tasks.
    """
    lines = []
    totals = {"policy": 0.0, "asked": 0.0, "l0": 0.0}
    for task in tasks:
        by_origin = {row.origin: row for row in task.rows if row.origin}
        own = by_origin.get("policy")
        asked = by_origin.get("asked", own)
        if own is None or asked is None:
            continue
        of_task = {"policy": own.grams, "asked": asked.grams, "l0": task.curve.l0["grams"]}
        for name, grams in of_task.items():
            totals[name] += task.curve.requests * grams
        if asked is not own:
            lines.append(
                f"{task.name}: a floor of {asked.floor:g} in place of {own.floor:g} saves "
                f"{asked.saving_pct:.1f} % in place of {own.saving_pct:.1f} %; "
                f"{asked.tokens - own.tokens:+.0f} tokens, "
                f"{1000 * (asked.grams - own.grams):+.3g} mg CO2e and "
                f"{asked.seconds - own.seconds:+.2f} s per request"
            )
    if totals["l0"] > 0:
        before, after = (100 * (1 - totals[name] / totals["l0"]) for name in ("policy", "asked"))
        lines.append(
            f"all tasks, in the profile's mix: {after:.1f} % saved in place of {before:.1f} %"
        )
    return lines


def draw(zone: str, tasks: list[_Task], path: Path) -> None:
    """Draw each task's quality against its saving, with the policy's own floor as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for index, task in enumerate(tasks):
        curve = task.curve
        saving = 100 * (1 - curve.costs["grams"][0] / curve.l0["grams"])
        quality, error = curve.quality[0], Z95 * curve.quality_error[0]
        colour = f"C{index % 10}"
        axes.plot(saving, quality, color=colour, label=task.name)
        axes.fill_between(saving, quality - error, quality + error, color=colour, alpha=0.12)
        for row in task.rows:
            if row.origin:
                marker = "o" if row.origin == "policy" else "D"
                axes.plot(row.saving_pct, row.quality, marker, color=colour)
    axes.axhline(1, color="0.7", linewidth=0.8)
    axes.set_xlabel(f"carbon saved against no directive, %, zone {zone}")
    axes.set_ylabel("quality relative to no directive (band: 95 %)")
    axes.set_title(
        "dot: the policy's own floor; diamond: the floor that was asked about", fontsize=9
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
