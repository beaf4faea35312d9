"""Initial weights that can copy in context: previous-token and induction heads.

A transformer of this size learns to copy only after long training (Olsson et al.,
"In-context Learning and Induction Heads", 2022). Writing this two-layer circuit into
the initial weights costs nothing, and training refines it.
"""

import math

import torch
from transformers import LlamaForCausalLM

# Gains of the planted weights: scores of the previous-token head, scores of the induction heads,
# and the outputs of each.
SHARPNESS = 8.0
MATCH = 3.0
WRITE = 3.0
COPY = 40.0


@torch.no_grad()
def plant_copying(model: LlamaForCausalLM, seed: int) -> None:
    """Write one previous-token head (layer 0) and two induction heads (layer 1) into `model`.

    The previous-token head uses rotary phases alone: with a constant in every
    embedding, its score is sum_i cos((distance - 1) * frequency_i). The induction
    heads match the current token against each position's previous token in the
    slow rotary pairs, where distance hardly rotates the match, and copy the token
    at the matching position.
    """
    config = model.config
    hidden, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = head // 2
    generator = torch.Generator().manual_seed(seed)

    def frame(rows: int) -> torch.Tensor:
        """Return random orthonormal rows, shape (rows, hidden)."""
        full = torch.randn(hidden, rows, generator=generator)
        orthonormal: torch.Tensor = torch.linalg.qr(full).Q.T
        return orthonormal

    embedding = model.model.embed_tokens.weight
    constant = 5.0 * config.initializer_range
    embedding[:, 0] = constant
    # Value of the constant after RMSNorm.
    normed = constant / math.sqrt((constant**2 + hidden * config.initializer_range**2) / hidden)
    theta = 10000.0 ** (-torch.arange(half) / half)

    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    token_frame, previous_frame = frame(head), frame(head)
    rows = slice(0, head)
    first.k_proj.weight[rows] = 0
    first.q_proj.weight[rows] = 0
    scale = SHARPNESS / normed
    # Fast pairs only: in slow pairs, neighbouring positions differ by less than the norms do.
    fast = half * 3 // 8
    first.k_proj.weight[0:fast, 0] = scale
    first.q_proj.weight[0:fast, 0] = scale * torch.cos(theta[:fast])
    first.q_proj.weight[half : half + fast, 0] = -scale * torch.sin(theta[:fast])
    first.v_proj.weight[rows] = token_frame
    # Larger than the embedding, whose component in this frame is noise for the match.
    first.o_proj.weight[:, rows] = previous_frame.T * WRITE * config.initializer_range

    quarter = half // 2
    slow = torch.cat([torch.arange(quarter, half), torch.arange(half + quarter, head)])
    for index in (0, 1):
        part = slice(index * half, (index + 1) * half)
        block = torch.arange(index * head, (index + 1) * head)
        second.q_proj.weight[block] = 0
        second.k_proj.weight[block] = 0
        second.q_proj.weight[block[slow]] = MATCH * token_frame[part]
        second.k_proj.weight[block[slow]] = MATCH * previous_frame[part]
        copy_frame = frame(head)
        second.v_proj.weight[block] = copy_frame
        second.o_proj.weight[:, block] = copy_frame.T * COPY * config.initializer_range
