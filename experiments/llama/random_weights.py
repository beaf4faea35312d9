"""Llamas of a given shape with random weights: they cost what real ones cost, and say nothing.

For measuring energy where no weights are at hand. The tokenizer is the embedded Llama's; tokens
that it does not know, or that are no text by themselves, are never likeliest: a stream has a piece
for each token. There is no end token, so that an answer is as long as it is allowed to be.
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
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_KNOWN_TOKENS = 1152


def random_llama(shape: str, folder: Path, device: str) -> int:
    """Write a model of a shape into `folder`; its bytes of weights.

    Args:
        device: where the weights are drawn, "cpu" or "cuda"; in half precision on the latter.

    Raises:
        ConfigError: no such shape.
    """
    if shape not in SHAPES:
        raise ConfigError(f"shape {shape!r}: one of {', '.join(SHAPES)}")
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=4096, bos_token_id=None, eos_token_id=None
    )
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(kind)
    try:
        with torch.device(device), torch.no_grad():
            model = LlamaForCausalLM(config)
            model.lm_head.weight[_silent(config.vocab_size)] = 0
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copyfile(EMBEDDED / name, folder / name)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _silent(size: int) -> list[int]:
    """Tokens of a vocabulary of this size that are no text by themselves."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    said = [tokenizer.decode([token]) for token in range(_KNOWN_TOKENS)]
    halves = [token for token, text in enumerate(said) if not text or "\ufffd" in text]
    return [*halves, *range(_KNOWN_TOKENS, size)]
