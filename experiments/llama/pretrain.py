"""Train the embedded Llama from scratch on the generated tasks (`sprout pretrain`)."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.llama.corpus import chats, tokenizer_texts
from experiments.llama.initialise import plant_copying
from experiments.llama.tokenizer import train as train_tokenizer

# Chats that are sorted by length and cut into batches together.
POOL_CHATS = 2048
BATCH_TOKENS = 4_096


def architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the embedded Llama's configuration: 4 layers of width 192, about 2.1 M parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (input IDs, labels) without end, both of shape (chats, length).

    Labels are -100 outside answers. Chats of similar length share a batch of at most
    `BATCH_TOKENS` padded tokens.
    """
    rng = np.random.default_rng(seed)
    stream = chats(rng)
    pad = tokenizer.pad_token_id
    while True:
        pool = [next(stream) for _ in range(POOL_CHATS)]
        prompts = tokenizer([c.prompt for c in pool], add_special_tokens=False)["input_ids"]
        answers = tokenizer([c.answer for c in pool], add_special_tokens=False)["input_ids"]
        rows = sorted(zip(prompts, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            length = len(row[0]) + len(row[1])
            if groups[-1] and length * (len(groups[-1]) + 1) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(row)
        for index in rng.permutation(len(groups)):
            group = groups[index]
            longest = max(len(p) + len(a) for p, a in group)
            ids = torch.full((len(group), longest), pad)
            labels = torch.full((len(group), longest), -100)
            for i, (prompt, answer) in enumerate(group):
                ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
                labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
            yield ids, labels


def pretrain(out: Path, *, steps: int, seed: int, peak_rate: float = 2e-3) -> None:
    """Train for `steps` batches; write model and tokenizer to `out`.

    Learning rate: linear warm-up over 100 steps, then cosine to zero. The model learns to copy
    only because of `plant_copying`.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(tokenizer_texts(np.random.default_rng(seed)))
    model = LlamaForCausalLM(architecture(tokenizer))
    plant_copying(model, seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    not_decayed = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": not_decayed, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    started, smooth = time.monotonic(), 0.0
    with Progress() as progress:
        bar = progress.add_task("pretrain", total=steps)
        for step, (ids, labels) in zip(range(steps), batches(tokenizer, seed), strict=False):
            rate = peak_rate * min(1.0, (step + 1) / 100)
            rate *= (1 + math.cos(math.pi * step / steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _loss(model, ids, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
            progress.update(bar, completed=step + 1, description=f"pretrain, loss {smooth:.4f}")
            if (step + 1) % 250 == 0:
                minutes = (time.monotonic() - started) / 60
                progress.console.print(f"step {step + 1}: loss {smooth:.4f}, {minutes:.1f} min")
                save(model, tokenizer, out)
    save(model, tokenizer, out)


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the answers; logits are computed for their positions only."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        in_answer = targets != -100
        logits = model.lm_head(hidden[in_answer])
    return functional.cross_entropy(logits.float(), targets[in_answer])


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model and the tokenizer to a folder that `transformers` can load."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
