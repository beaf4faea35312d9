"""`sprout evaluate`: carbon saving and quality of methods and trained policies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

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
from experiments.console import table_console
from experiments.evaluate.checks import known_tasks, left_out, overlaps, unseen_only
from experiments.evaluate.document import METHOD_COLUMNS, document, method_rows
from experiments.evaluate.figures import draw
from experiments.evaluate.mixes import read_named_mix
from experiments.evaluate.result import judge
from experiments.evaluate.table import means_table, table
from experiments.settings import Settings, floors_by_task, write_json
from experiments.tracking import tracked


class Evaluate(Settings):
    """Compare methods on recorded outcomes; all methods get the same requests at the same hours.

    Without --zone and --start the requests are spread evenly over all hours of all zones.
    Figures are expectations over the methods' sampling, with 95% intervals that resample
    prompts.
    """

    outcomes: Path = Field(description="profile of recorded outcomes (Parquet)")
    intensity: list[Path] = Field(min_length=1, description="intensity CSVs or folders of them")
    methods: str = Field(
        ",".join(name for name in METHODS if name not in ("direct", "linucb")),
        description=f"methods to compare, comma-separated: {', '.join(METHODS)}",
    )
    policy: list[str] = Field([], description="policy bundles: FOLDER or NAME=FOLDER")
    model: str | None = Field(
        None, description="model whose rows of the profile to use, if it has several"
    )
    quality: Literal["correct", "preference"] = Field(
        "correct", description="quality that the floors apply to"
    )
    floor: str = Field(
        "0.95",
        description="lowest quality relative to L0 (no directive): a ratio, or a YAML file of "
        "TASK: RATIO",
    )
    zone: str | None = Field(None, description="grid zone to use; default all zones in --intensity")
    start: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="first hour of each window in the traces; default all hours"
    )
    hours: int = Field(720, ge=1, description="length of each window, hours")
    mix: str = Field(
        "file",
        description="task shares: file (those of the profile), uniform, TASK=SHARE,..., "
        "jobs:FILE:SEED (random, from hourly job counts), or a CSV of hourly shares",
    )
    unseen: bool = Field(False, description="leave out the policies' training prompts")
    task_tags: bool = Field(True, description="show policies the requests' task tags")
    seed: int = Field(
        0, ge=0, description="seed of the order in which requests are spread over the hours"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples")
    out: Path = Field(Path("runs/evaluation"), description="folder for figures and settings")
    json_path: Path | None = Field(
        None, alias="json", description="file for the machine-readable result"
    )

    def cli_cmd(self) -> None:
        """Evaluate the methods, write the results and print them."""
        if not self.start and "hours" in self.model_fields_set:
            raise ConfigError(
                "--hours is the length of a window: also give its first hour with --start"
            )
        if self.unseen and not self.policy:
            raise ConfigError(
                "--unseen leaves out the training prompts of policies: give a --policy"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        profile = read_profile(self.outcomes, self.model)
        if len(profile.directives) < 2:
            raise DataError(
                self.outcomes,
                f"has only the directive {profile.directives[0]!r}",
                "give outcomes under two or more",
            )
        traces = chosen_zones(self.intensity, self.zone)
        bundles = self._bundles()
        if self.unseen:
            profile = unseen_only(profile, bundles)
        methods = self._methods(bundles)
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
        figures = judge(scene, methods, self.resamples)
        # Files are written first, because printing fails if the reader closes the pipe.
        pictures = draw(scene, figures, self.out)
        self.save(self.out)
        result = document(scene, figures, self.mix, warnings)
        write_json(self.json_path, result)
        self._track(profile, bundles, result, pictures)
        console = table_console()
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
        """Record the evaluation as a tracked run: inputs, policies, table and pictures."""
        lineage = {
            "profile_sha256": fingerprint(profile),
            "outcomes_sha256": sha256_of(self.outcomes),
            "policies": {name: bundle.version for name, bundle in bundles.items()},
        }
        settings = self.model_dump(mode="json") | {"inputs": lineage}
        with tracked(settings, self.out / "tracking", group="evaluate") as run:
            run.table("methods", METHOD_COLUMNS, method_rows(result))
            for picture in pictures:
                run.picture(picture.stem, picture)

    def _bundles(self) -> dict[str, Bundle]:
        bundles: dict[str, Bundle] = {}
        for argument in self.policy:
            name, folder = _named(argument)
            if not name:
                raise ConfigError(f"--policy {argument}: give FOLDER or NAME=FOLDER")
            if name in bundles or name in METHODS:
                raise ConfigError(
                    f"--policy {argument}: the name {name!r} is already taken; give NAME=FOLDER "
                    "with another name"
                )
            bundles[name] = load_bundle(folder)
        return bundles

    def _methods(self, bundles: dict[str, Bundle]) -> dict[str, Method]:
        names = [name.strip() for name in self.methods.split(",") if name.strip()]
        for name in names:
            if name not in METHODS:
                raise ConfigError(
                    f"--methods: no method {name!r}; give names from {', '.join(METHODS)}"
                )
        methods: dict[str, Method] = {name: make_method(name) for name in names}
        methods |= {name: Learned(bundle, self.task_tags) for name, bundle in bundles.items()}
        if not methods:
            raise ConfigError("there is nothing to evaluate; give --methods or --policy")
        return methods


def _named(argument: str) -> tuple[str, Path]:
    """Split a value of --policy, FOLDER or NAME=FOLDER, into a name and a folder."""
    name, equals, folder = argument.partition("=")
    if equals and "/" not in name and not Path(argument).exists():
        return name, Path(folder)
    return Path(argument).resolve().name, Path(argument)
