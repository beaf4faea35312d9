"""The embedded Llama's tokenizer: byte-level BPE with a Llama-2-style chat template."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]

# Meta's Llama-2 chat format, with a space before the text of every turn, so that a word has the
# same token in every position.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ bos_token + '[INST]' }}"
    "{% if loop.index0 == 0 and system %}{{ '<<SYS>> ' + system + '<</SYS>>' }}{% endif %}"
    "{{ ' ' + message['content'] + '[/INST]' }}{% endif %}"
    "{% endfor %}"
)


def train(texts: Iterable[str], vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `texts`.

    With `experiments.llama.corpus.tokenizer_texts`, the numbers 0 to 99 become single tokens.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=SPECIAL[4:],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
