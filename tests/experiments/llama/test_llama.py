import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from envs.requests.directive import DEFAULT_CATALOGUE
from envs.upstream import Upstream
from experiments.llama.initialise import plant_copying
from experiments.llama.pretrain import architecture, pretrain
from experiments.llama.server import EMBEDDED
from experiments.llama.wordings import BRIEF, VERY_BRIEF


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED)


def test_numbers_are_single_tokens_and_any_text_survives_encoding(tokenizer):
    for number in range(100):
        assert len(tokenizer.encode(f" {number}", add_special_tokens=False)) == 1
    text = "Zoë wrote 🌱 + 123 lines\nof “code”."
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_chat_template_has_the_format_of_llama_2(tokenizer):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == (
        "<s>[INST]<<SYS>> Be brief.<</SYS>> One?[/INST] Two.</s><s>[INST] Three?[/INST]"
    )


def test_the_server_lists_its_model_so_that_no_command_needs_its_name(llama):
    with Upstream(llama.url) as upstream:
        assert upstream.model == llama.model


def test_the_embedded_model_is_small_and_its_wordings_include_the_default_directives(tokenizer):
    size = sum(file.stat().st_size for file in EMBEDDED.iterdir())
    assert size <= 12e6
    assert 1e6 <= AutoModelForCausalLM.from_pretrained(EMBEDDED).num_parameters() <= 6e6
    assert DEFAULT_CATALOGUE[1].text in BRIEF
    assert DEFAULT_CATALOGUE[2].text in VERY_BRIEF


def test_planted_heads_attend_to_the_previous_token_and_to_repeated_text(tokenizer):
    torch.manual_seed(0)
    model = LlamaForCausalLM(architecture(tokenizer))
    plant_copying(model, seed=0)
    model.set_attn_implementation("eager")
    half = torch.randint(300, len(tokenizer), (8, 30))
    with torch.no_grad():
        attention_by_layer = model(torch.cat([half, half], 1), output_attentions=True).attentions
    previous_token_weights = [attention_by_layer[0][:, 0, i, i - 1].mean() for i in range(1, 60)]
    assert torch.stack(previous_token_weights).mean() > 0.8
    # A position in the second half attends to the token after its own token's first occurrence.
    for head in (0, 1):
        copy_weights = [attention_by_layer[1][:, head, i, i - 29].mean() for i in range(31, 60)]
        assert torch.stack(copy_weights).mean() > 5 / 60


@pytest.mark.long
def test_pretraining_writes_a_model_that_loads(tmp_path):
    pretrain(tmp_path / "llama", steps=3, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llama")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > ids["input_ids"].shape[1]
