"""Optional text encoder: a transformer that captures meaning, slower than word features.

Works with any encoder or causal model of Hugging Face's `transformers` in a local folder,
including the served model's own weights. It needs torch at serving time, and some milliseconds
per request.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from envs.arrays import Float32Array
from envs.errors import ConfigError

MAX_TOKENS = 256
BATCH = 64
# Norm of each text's vector: in a ridge regression it weighs as much as 25 words.
LENGTH = 5.0
# File types that a bundle keeps of a saved model and tokenizer: none can execute code.
KEPT = (".json", ".safetensors")


class Encoder:
    """Encodes a text as the mean of the last hidden states of its first `MAX_TOKENS` tokens.

    Args:
        folder: a local `transformers` model.

    Raises:
        ConfigError: the folder holds no model with safetensors and a fast tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        try:
            # With trust_remote_code unset, transformers asks on the terminal whether to run
            # code from the folder.
            options = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            self._model = AutoModel.from_pretrained(folder, use_safetensors=True, **options).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"encoder {folder}: cannot be loaded ({reason}); give a folder with a transformers "
                "model in safetensors and its tokenizer"
            ) from error
        if not self._tokenizer.is_fast:
            raise ConfigError(
                f"encoder {folder}: the tokenizer has no tokenizer.json; save a fast tokenizer"
            )
        self.width = int(self._model.config.hidden_size)
        self._cache: dict[str, Float32Array] = {}

    def warm(self, texts: Sequence[str]) -> None:
        """Encode texts in batches and cache their vectors: training uses each text many times."""
        missing = sorted(set(texts) - self._cache.keys(), key=len)
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            self._cache |= zip(batch, self._encoded(batch), strict=True)

    def vector(self, text: str) -> Float32Array:
        """Return the vector of one text, shape (width,), with norm `LENGTH`."""
        cached = self._cache.get(text)
        vector: Float32Array = self._encoded([text])[0] if cached is None else cached
        return vector

    def save(self, folder: Path) -> list[str]:
        """Write model and tokenizer into a folder; return the file names."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        for path in list(folder.iterdir()):
            content = path.read_bytes() if path.suffix in KEPT else None
            path.unlink()
            if content is not None:
                # Written anew: the library lets only the owner read its files.
                path.write_bytes(content)
        return sorted(path.name for path in folder.iterdir())

    @torch.inference_mode()
    def _encoded(self, texts: Sequence[str]) -> Float32Array:
        # Padded by hand, because not every tokenizer defines a padding token.
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
