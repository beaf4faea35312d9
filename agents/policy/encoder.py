"""A transformer that reads a chat's meaning: slower than counting words, optional.

Any encoder or causal model of Hugging Face's `transformers` in a local folder, the served
model's own weights too. It needs torch at serving time, and some milliseconds a request.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from envs.arrays import Float32Array
from envs.errors import ConfigError

MAX_TOKENS = 256
BATCH = 64
# The length of a text's vector: as heavy in a ridge regression as 25 of its words.
LENGTH = 5.0
# What a bundle keeps of a saved model and tokenizer: nothing that could be executed.
KEPT = (".json", ".safetensors")


class Encoder:
    """Mean of the last hidden states over a text's first `MAX_TOKENS` tokens.

    Raises:
        ConfigError: the folder holds no model with safetensors and tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # Without the last, it would ask on the terminal whether to run code of the folder's.
            given = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **given)
            self._model = AutoModel.from_pretrained(folder, use_safetensors=True, **given).eval()
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"encoder {folder}: cannot be loaded ({first})") from error
        if not self._tokenizer.is_fast:
            raise ConfigError(f"encoder {folder}: its tokenizer has no tokenizer.json; save one")
        self.width = int(self._model.config.hidden_size)
        self._known: dict[str, Float32Array] = {}

    def warm(self, texts: Sequence[str]) -> None:
        """Read texts at once and remember them: training sees each again and again."""
        left = sorted(set(texts) - self._known.keys(), key=len)
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            self._known |= zip(batch, self._encoded(batch), strict=True)

    def vector(self, text: str) -> Float32Array:
        """One text's vector, shape (width,), of length `LENGTH`."""
        known = self._known.get(text)
        vector: Float32Array = self._encoded([text])[0] if known is None else known
        return vector

    def save(self, folder: Path) -> list[str]:
        """Write it into a folder; names of the files."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        for path in folder.iterdir():
            if path.suffix not in KEPT:
                path.unlink()
        return sorted(path.name for path in folder.iterdir())

    @torch.inference_mode()
    def _encoded(self, texts: Sequence[str]) -> Float32Array:
        # Token by token padded here: not every tokenizer names a padding token.
        rows = [
            self._tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"] or [0]
            for text in texts
        ]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        means = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        scaled = LENGTH * torch.nn.functional.normalize(means.float(), dim=1)
        vectors: Float32Array = scaled.numpy()
        return vectors
