"""Files of a clone of the SPROUT authors' repository: their paths and formats."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from envs.carbon.footprint import JOULES_PER_KWH
from envs.errors import DataError

MODELS = {"13b": "llama-2-13b-chat", "7b": "llama-2-7b-chat"}
# Directive -> its suffix in file names, in the order of the field `assistance_lvl`.
LEVELS = {"none": "", "brief": "_brief", "very_brief": "_brief+"}
# Pairs of model size and directive that the authors measured and answered.
RUNS = (*(("13b", level) for level in LEVELS), ("7b", "none"))
QUALITY = Path("prompt_sweeping/request_quality/auto_annotate")
VERDICTS = QUALITY / "quality_accessor/assessment_results/summary_2000.json"
Chat = list[dict[str, str]]
REMEDY = "give a complete clone of the authors' repository"


@dataclass(frozen=True)
class Dataset:
    """The name of a data set's task in profiles, and the stem of its file names in the clone."""

    task: str
    stem: str


DATASETS = {
    "alpaca": Dataset("alpaca", "alpaca_5000"),
    "math": Dataset("gsm8k", "math_all"),
    "mmlu": Dataset("mmlu", "mmlu_5000"),
    "naturalqa": Dataset("nq_open", "naturalqa_5000"),
    "triviaqa": Dataset("triviaqa", "triviaqa_5000"),
    "scienceqa": Dataset("scienceqa", "scienceqa_5000"),
}


@dataclass(frozen=True)
class Measured:
    """One file of measurements, in the order of the prompts.

    Attributes:
        joules: energy of each request, J.
        seconds: duration of each request, s.
        input_tokens, output_tokens: token counts; empty if the file has none.
    """

    joules: list[float]
    seconds: list[float]
    input_tokens: list[int]
    output_tokens: list[int]


class Clone:
    """Reader of the clone's files; each file is read only once.

    All methods raise DataError if a file is missing or wrong; the message names the file, the
    entry and the field.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "prompt_sweeping").is_dir():
            raise DataError(folder, "has no folder prompt_sweeping", REMEDY)
        self._json = cache(self._read)
        self.measured = cache(self._measured)
        self.chats = cache(self._chats)

    def places(self, dataset: str) -> dict[str, int]:
        """Return the index at which each prompt first occurs among the data set's prompts."""
        places: dict[str, int] = {}
        for index, chat in enumerate(self.chats(dataset, "none")):
            places.setdefault(user_text(chat), index)
        return places

    def answers(self, dataset: str, size: str, level: str) -> dict[str, str]:
        """Return the model's answer to each prompt."""
        name = f"{DATASETS[dataset].stem}{LEVELS[level]}_{size}.json"
        return self._outputs(QUALITY / dataset / "samples_2000_seed_0" / name)

    def references(self, dataset: str) -> dict[str, str]:
        """Return the data set's reference answer to each prompt."""
        return self._outputs(QUALITY / dataset / "samples_2000_seed_0/correct_answer.json")

    def verdicts(self, dataset: str) -> dict[str, str]:
        """Return, for each prompt, the directive whose answer the judge preferred."""
        summary = self._json(VERDICTS)
        path = self.folder / VERDICTS
        if not isinstance(summary, dict) or not isinstance(summary.get(dataset), list):
            raise DataError(path, f"has no data set {dataset!r}", REMEDY)
        levels = list(LEVELS)
        verdicts = {}
        for index, entry in enumerate(summary[dataset]):
            level = _field(path, index, entry, "assistance_lvl", int)
            if level not in range(len(levels)):
                raise DataError(path, f"{dataset} {index} assistance_lvl {level}", "give 0, 1 or 2")
            verdicts[_field(path, index, entry, "instruction", str)] = levels[level]
        return verdicts

    def _chats(self, dataset: str, level: str) -> list[Chat]:
        path = self.prompts(dataset, level)
        chats: list[Chat] = []
        for index, chat in enumerate(self._list(path)):
            if not isinstance(chat, list) or not all(map(_is_message, chat)):
                raise DataError(
                    self.folder / path,
                    f"entry {index} is no chat",
                    "give a list of messages with role and content",
                )
            if not any(message["role"] == "user" for message in chat):
                raise DataError(
                    self.folder / path,
                    f"entry {index} has no message of role user",
                    "give a chat with a question",
                )
            chats.append(chat)
        return chats

    @staticmethod
    def prompts(dataset: str, level: str) -> Path:
        """Return the file of a data set's prompts under a directive, relative to the clone."""
        return Path(f"prompt_sweeping/prompts/prompt_{DATASETS[dataset].stem}{LEVELS[level]}.json")

    def _measured(self, dataset: str, size: str, level: str) -> Measured:
        name = f"{DATASETS[dataset].stem}{LEVELS[level]}_{size}-chat.json"
        relative = Path("prompt_sweeping/request_carbon/data") / name
        content = self._json(relative)
        path = self.folder / relative
        if not isinstance(content, dict):
            raise DataError(path, "is no mapping of lists", REMEDY)
        energy, seconds = (_numbers(path, content, key) for key in ("energy", "time"))
        if len(energy) != len(seconds):
            raise DataError(
                path,
                f"has {len(energy)} energy, {len(seconds)} time values",
                "give one of each per prompt",
            )
        prompts = len(self.chats(dataset, level))
        if len(energy) > prompts:
            raise DataError(
                path,
                f"has {len(energy)} energy values for {prompts} prompts",
                "give one per prompt",
            )
        tokens = [
            [round(n) for n in _numbers(path, content, key)] if key in content else []
            for key in ("num_input_tokens", "num_output_tokens")
        ]
        return Measured([JOULES_PER_KWH * kwh for kwh in energy], seconds, *tokens)

    def _outputs(self, relative: Path) -> dict[str, str]:
        """Return the first output of each prompt ("instruction") in a file."""
        path = self.folder / relative
        outputs: dict[str, str] = {}
        for index, entry in enumerate(self._list(relative)):
            prompt = _field(path, index, entry, "instruction", str)
            outputs.setdefault(prompt, _field(path, index, entry, "output", str))
        return outputs

    def _list(self, relative: Path) -> list[Any]:
        content = self._json(relative)
        if not isinstance(content, list):
            raise DataError(self.folder / relative, "is no list", REMEDY)
        return content

    def _read(self, relative: Path) -> Any:
        path = self.folder / relative
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(path, "is missing", REMEDY) from error
        except (OSError, ValueError) as error:
            raise DataError(path, f"is no readable JSON ({error})", REMEDY) from error


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(
        isinstance(message.get(name), str) for name in ("role", "content")
    )


def user_text(chat: Chat) -> str:
    """Return the first user message of a chat."""
    return next(message["content"] for message in chat if message["role"] == "user")


def _field(path: Path, index: int, entry: Any, name: str, kind: type) -> Any:
    """Return the field `name` of an entry; raise if it is not of type `kind`."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise DataError(
            path, f"entry {index} {name} is {value!r}", f"give a value of type {kind.__name__}"
        )
    return value


def _numbers(path: Path, content: dict[str, Any], name: str) -> list[float]:
    """Return the list `name` of a file; raise unless all its values are finite and 0 or more."""
    values = content.get(name)
    if not isinstance(values, list):
        raise DataError(path, f"field {name!r} is missing", "give lists energy and time")
    for index, value in enumerate(values):
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise DataError(path, f"entry {index} {name} is {value!r}", "give a number, 0 or more")
    return values
