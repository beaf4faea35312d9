"""`sprout evaluate`: what methods and trained policies save, and what quality it costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.console import Console

from agents.methods import METHODS, make_method
from agents.methods.bundle import Learned
from agents.methods.method import Method
from agents.methods.scene import Windows, build_scene
from agents.policy.bundle import Bundle, load_bundle
from agents.policy.bundle_files import sha256_of
from envs.carbon.csv_traces import chosen_zones
from envs.errors import ConfigError, DataError
from envs.outcomes.profile import Profile, fingerprint
from envs.outcomes.profile_reader import read_profile
from experiments.evaluate.checks import known_tasks, left_out, overlaps, unseen_only
from experiments.evaluate.document import METHOD_COLUMNS, document, method_rows
from experiments.evaluate.figures import draw
from experiments.evaluate.mixes import read_named_mix
from experiments.evaluate.result import judge
from experiments.evaluate.table import means_table, table
from experiments.settings import Settings, floors_by_task, write_json
from experiments.tracking import tracked


class Evaluate(Settings):
    """Compare methods on recorded outcomes: the same requests at the same hours for all.

    Without --zone and --start the requests are spread evenly over all hours of all given
    zones. Figures are expectations over the methods' sampling, with 95% intervals by prompt.
    """

    outcomes: Path = Field(description="profile (Parquet)")
    intensity: list[Path] = Field(min_length=1, description="intensity CSVs or folders of them")
    methods: str = Field(
        ",".join(name for name in METHODS if name not in ("direct", "linucb")),
        description=f"of {', '.join(METHODS)}; comma-separated",
    )
    policy: list[str] = Field([], description="policy bundles: FOLDER or NAME=FOLDER")
    model: str | None = Field(None, description="model to evaluate, where the profile has several")
    quality: Literal["correct", "preference"] = Field("correct", description="what floors are on")
    floor: str = Field("0.95", description="least quality relative to L0: ratio, or YAML by task")
    zone: str | None = Field(None, description="one zone; default all that were given")
    start: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="first hours of windows in the traces"
    )
    hours: int = Field(720, ge=1, description="length of each window")
    mix: str = Field(
        "file",
        description="task shares: file (its own), uniform, TASK=SHARE,..., jobs:FILE:SEED "
        "(random, from hourly job counts), or a CSV of hourly shares",
    )
    unseen: bool = Field(False, description="leave out the policies' training prompts")
    task_tags: bool = Field(True, description="whether policies see the requests' tasks")
    seed: int = Field(
        0, ge=0, description="of the order in which requests are spread over the hours"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")
    out: Path = Field(Path("runs/evaluation"), description="folder for figures and settings")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Evaluate, print, draw, write."""
        if not self.start and "hours" in self.model_fields_set:
            raise ConfigError("--hours is the length of a window: give its --start too")
        if self.unseen and not self.policy:
            raise ConfigError("--unseen leaves out policies' training prompts: give a --policy")
        self.out.mkdir(parents=True, exist_ok=True)
        profile = read_profile(self.outcomes, self.model)
        if len(profile.directives) < 2:
            raise DataError(
                self.outcomes, f"has only {profile.directives[0]!r}", "give two or more"
            )
        traces = chosen_zones(self.intensity, self.zone)
        bundles = self._bundles()
        if self.unseen:
            profile = unseen_only(profile, bundles)
        chosen = self._methods(bundles)
        known = known_tasks(profile, self.quality)
        mix = read_named_mix(self.mix, profile, known, self.hours)
        scene = build_scene(
            profile,
            traces,
            floors_by_task(self.floor, known, profile.tasks),
            quality=self.quality,
            windows=Windows(self.start, self.hours),
            mix=mix,
            seed=self.seed,
        )
        warnings = [*left_out(profile, scene, mix), *overlaps(bundles, scene)]
        figures = judge(scene, chosen, self.resamples)
        # Written before it is printed: whoever reads the screen may hang up.
        pictures = draw(scene, figures, self.out)
        self.save(self.out)
        result = document(scene, figures, self.mix, warnings)
        write_json(self.json_path, result)
        self._track(profile, bundles, result, pictures)
        console = Console()
        for warning in warnings:
            console.print(f"[yellow]warning: {warning}")
        console.print(
            table(scene, figures), "", means_table(profile.tokens_method, figures), "", sep="\n"
        )
        console.print(f"figures: {', '.join(str(picture) for picture in pictures)}")

    def _track(
        self,
        profile: Profile,
        bundles: Mapping[str, Bundle],
        result: Mapping[str, Any],
        pictures: Sequence[Path],
    ) -> None:
        """The evaluation as a run: its table, its pictures, and which policies it judged."""
        made_of = {
            "profile_sha256": fingerprint(profile),
            "outcomes_sha256": sha256_of(self.outcomes),
            "policies": {name: bundle.version for name, bundle in bundles.items()},
        }
        settings = self.model_dump(mode="json") | {"inputs": made_of}
        with tracked(settings, self.out / "tracking", group="evaluate") as run:
            run.table("methods", METHOD_COLUMNS, method_rows(result))
            for picture in pictures:
                run.picture(picture.stem, picture)

    def _bundles(self) -> dict[str, Bundle]:
        found: dict[str, Bundle] = {}
        for given in self.policy:
            name, folder = _named(given)
            if not name:
                raise ConfigError(f"--policy {given}: give FOLDER or NAME=FOLDER")
            if name in found or name in METHODS:
                raise ConfigError(f"--policy {given}: {name!r} twice; give NAME=FOLDER")
            found[name] = load_bundle(folder)
        return found

    def _methods(self, bundles: dict[str, Bundle]) -> dict[str, Method]:
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        for name in names:
            if name not in METHODS:
                raise ConfigError(f"--methods: no method {name!r}; one of {', '.join(METHODS)}")
        chosen: dict[str, Method] = {name: make_method(name) for name in names}
        chosen |= {name: Learned(bundle, self.task_tags) for name, bundle in bundles.items()}
        if not chosen:
            raise ConfigError("nothing to evaluate; give --methods or --policy")
        return chosen


def _named(given: str) -> tuple[str, Path]:
    name, equals, folder = given.partition("=")
    if equals and "/" not in name and not Path(given).exists():
        return name, Path(folder)
    return Path(given).resolve().name, Path(given)
