"""Where things lie in a clone of the SPROUT authors' repository, and how they are written."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from envs.carbon.footprint import JOULES_PER_KWH
from envs.errors import DataError

MODELS = {"13b": "llama-2-13b-chat", "7b": "llama-2-7b-chat"}
# Directive -> what file names have for it; the order is that of `assistance_lvl`.
LEVELS = {"none": "", "brief": "_brief", "very_brief": "_brief+"}
# Model sizes and levels that were measured and answered.
RUNS = (*(("13b", level) for level in LEVELS), ("7b", "none"))
QUALITY = Path("prompt_sweeping/request_quality/auto_annotate")
VERDICTS = QUALITY / "quality_accessor/assessment_results/summary_2000.json"
Chat = list[dict[str, str]]
REMEDY = "give a whole clone of the authors' repository"


@dataclass(frozen=True)
class Dataset:
    """A data set's task here, and the stem of its files there."""

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
    """One file of measurements, in the order of the prompts; token lists may be empty."""

    joules: list[float]
    seconds: list[float]
    input_tokens: list[int]
    output_tokens: list[int]


class Clone:
    """Reads the clone's files, each once.

    Raises (all methods):
        DataError: naming the file, the entry and the field.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "prompt_sweeping").is_dir():
            raise DataError(folder, "has no folder prompt_sweeping", REMEDY)
        self._json = cache(self._read)
        self.measured = cache(self._measured)
        self.chats = cache(self._chats)

    def places(self, dataset: str) -> dict[str, int]:
        """Where each prompt first stands in the order of prompts."""
        found: dict[str, int] = {}
        for index, chat in enumerate(self.chats(dataset, "none")):
            found.setdefault(user_text(chat), index)
        return found

    def answers(self, dataset: str, size: str, level: str) -> dict[str, str]:
        """Prompt -> the model's answer."""
        name = f"{DATASETS[dataset].stem}{LEVELS[level]}_{size}.json"
        return self._outputs(QUALITY / dataset / "samples_2000_seed_0" / name)

    def references(self, dataset: str) -> dict[str, str]:
        """Prompt -> the data set's own answer."""
        return self._outputs(QUALITY / dataset / "samples_2000_seed_0/correct_answer.json")

    def verdicts(self, dataset: str) -> dict[str, str]:
        """Prompt -> the directive whose answer the judge preferred."""
        summary = self._json(VERDICTS)
        path = self.folder / VERDICTS
        if not isinstance(summary, dict) or not isinstance(summary.get(dataset), list):
            raise DataError(path, f"has no data set {dataset!r}", REMEDY)
        levels = list(LEVELS)
        found = {}
        for index, entry in enumerate(summary[dataset]):
            level = _text(path, index, entry, "assistance_lvl", int)
            if level not in range(len(levels)):
                raise DataError(path, f"{dataset} {index} assistance_lvl {level}", "give 0, 1 or 2")
            found[_text(path, index, entry, "instruction", str)] = levels[level]
        return found

    def _chats(self, dataset: str, level: str) -> list[Chat]:
        path = self.prompts(dataset, level)
        found: list[Chat] = []
        for index, chat in enumerate(self._list(path)):
            if not isinstance(chat, list) or not all(map(_is_message, chat)):
                raise DataError(self.folder / path, f"entry {index} is no chat", "give messages")
            if not any(message["role"] == "user" for message in chat):
                raise DataError(self.folder / path, f"entry {index} has no user", "give a question")
            found.append(chat)
        return found

    @staticmethod
    def prompts(dataset: str, level: str) -> Path:
        """The file of a data set's prompts under a directive, within the clone."""
        return Path(f"prompt_sweeping/prompts/prompt_{DATASETS[dataset].stem}{LEVELS[level]}.json")

    def _measured(self, dataset: str, size: str, level: str) -> Measured:
        name = f"{DATASETS[dataset].stem}{LEVELS[level]}_{size}-chat.json"
        path = Path("prompt_sweeping/request_carbon/data") / name
        content = self._json(path)
        where = self.folder / path
        if not isinstance(content, dict):
            raise DataError(where, "is no mapping of lists", REMEDY)
        energy, seconds = (_numbers(where, content, key) for key in ("energy", "time"))
        if len(energy) != len(seconds):
            raise DataError(where, f"{len(energy)} energy, {len(seconds)} time", "give as many")
        prompts = len(self.chats(dataset, level))
        if len(energy) > prompts:
            raise DataError(where, f"{len(energy)} energy for {prompts} prompts", "give one each")
        tokens = [
            [round(n) for n in _numbers(where, content, key)] if key in content else []
            for key in ("num_input_tokens", "num_output_tokens")
        ]
        return Measured([JOULES_PER_KWH * kwh for kwh in energy], seconds, *tokens)

    def _outputs(self, place: Path) -> dict[str, str]:
        path = self.folder / place
        found: dict[str, str] = {}
        for index, entry in enumerate(self._list(place)):
            prompt = _text(path, index, entry, "instruction", str)
            found.setdefault(prompt, _text(path, index, entry, "output", str))
        return found

    def _list(self, place: Path) -> list[Any]:
        content = self._json(place)
        if not isinstance(content, list):
            raise DataError(self.folder / place, "is no list", REMEDY)
        return content

    def _read(self, place: Path) -> Any:
        path = self.folder / place
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
    """What the user asks in a chat."""
    return next(message["content"] for message in chat if message["role"] == "user")


def _text(path: Path, index: int, entry: Any, name: str, kind: type) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise DataError(path, f"entry {index} {name} is {value!r}", f"give {kind.__name__}")
    return value


def _numbers(path: Path, content: dict[str, Any], name: str) -> list[float]:
    values = content.get(name)
    if not isinstance(values, list):
        raise DataError(path, f"field {name!r} is missing", "give energy and time lists")
    for index, value in enumerate(values):
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise DataError(path, f"entry {index} {name} is {value!r}", "give a number, 0 or more")
    return values
