"""Llama models with random weights, to measure energy where no trained weights are available.

They cost the same energy as trained models; their answers are meaningless. They use the embedded
Llama's tokenizer. Greedy decoding never selects tokens that the tokenizer lacks or that decode to
incomplete text, so a stream has one piece per token. There is no end token, so every answer runs to
its token limit.
"""

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from envs.errors import ConfigError
from experiments.llama.server import EMBEDDED

# Llama 2's own configurations (Touvron et al., 2023), and one for machines without a GPU.
SHAPES: dict[str, dict[str, int]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 2000,
    },
}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# At least the vocabulary of the embedded tokenizer; higher token IDs have no text.
_KNOWN_TOKENS = 1152


def random_llama(shape: str, folder: Path, device: str) -> int:
    """Write a model of a shape to `folder` and return the size of its weights, bytes.

    Args:
        shape: key of `SHAPES`.
        device: device on which to draw the weights: "cpu", or "cuda" in half precision.

    Raises:
        ConfigError: the shape is unknown.
    """
    if shape not in SHAPES:
        raise ConfigError(f"unknown shape {shape!r}: give one of {', '.join(SHAPES)}")
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=4096, bos_token_id=None, eos_token_id=None
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    previous_dtype = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.no_grad():
            model = LlamaForCausalLM(config)
            model.lm_head.weight[_textless(config.vocab_size)] = 0
    finally:
        torch.set_default_dtype(previous_dtype)
    model.generation_config.eos_token_id = None
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(EMBEDDED / name, folder / name)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _textless(size: int) -> list[int]:
    """Return the tokens of a vocabulary of `size` that decode to no complete text."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    texts = [tokenizer.decode([token]) for token in range(_KNOWN_TOKENS)]
    incomplete = [token for token, text in enumerate(texts) if not text or "\ufffd" in text]
    return [*incomplete, *range(_KNOWN_TOKENS, size)]
