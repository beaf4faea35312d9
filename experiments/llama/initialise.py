"""A head start for copying in context: previous-token and induction heads at initialisation.

A transformer of this size learns to copy only after long training (Olsson et al.,
"In-context Learning and Induction Heads", 2022). Writing the two-head circuit into
the first two layers costs nothing and training refines it from there.
"""

import math

import torch
from transformers import LlamaForCausalLM

SHARPNESS = 8.0
MATCH = 3.0
WRITE = 3.0
COPY = 40.0


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM, seed: int) -> None:
    """Write one previous-token head (layer 0) and two induction heads (layer 1).

    The previous-token head uses rotary phases alone: with a constant in every
    embedding, its score is sum_i cos((distance - 1) * frequency_i). The induction
    heads match the current token against each position's previous token in the
    slow rotary pairs, where distance hardly turns the match, and copy the token
    found there.
    """
    config = model.config
    hidden, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = head // 2
    generator = torch.Generator().manual_seed(seed)

    def frame(rows: int) -> torch.Tensor:
        full = torch.randn(hidden, rows, generator=generator)
        rows_of: torch.Tensor = torch.linalg.qr(full).Q.T
        return rows_of

    embedding = model.model.embed_tokens.weight
    constant = 5.0 * config.initializer_range
    embedding[:, 0] = constant
    # What the constant is after RMSNorm.
    normed = constant / math.sqrt((constant**2 + hidden * config.initializer_range**2) / hidden)
    theta = 10000.0 ** (-torch.arange(half) / half)

    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    seen, written = frame(head), frame(head)
    rows = slice(0, head)
    first.k_proj.weight[rows] = 0
    first.q_proj.weight[rows] = 0
    scale = SHARPNESS / normed
    # Fast pairs only: slow ones tell neighbours apart by less than norms differ.
    fast = half * 3 // 8
    first.k_proj.weight[0:fast, 0] = scale
    first.q_proj.weight[0:fast, 0] = scale * torch.cos(theta[:fast])
    first.q_proj.weight[half : half + fast, 0] = -scale * torch.sin(theta[:fast])
    first.v_proj.weight[rows] = seen
    # Louder than the embedding, whose own part in this frame is noise to the match.
    first.o_proj.weight[:, rows] = written.T * WRITE * config.initializer_range

    quarter = half // 2
    slow = torch.cat([torch.arange(quarter, half), torch.arange(half + quarter, head)])
    for index in (0, 1):
        part = slice(index * half, (index + 1) * half)
        block = torch.arange(index * head, (index + 1) * head)
        second.q_proj.weight[block] = 0
        second.k_proj.weight[block] = 0
        second.q_proj.weight[block[slow]] = MATCH * seen[part]
        second.k_proj.weight[block[slow]] = MATCH * written[part]
        copied = frame(head)
        second.v_proj.weight[block] = copied
        second.o_proj.weight[:, block] = copied.T * COPY * config.initializer_range
