"""Small tokenizers, trained on a short talk: byte-level in the way of GPT-2, and one in the way of LLaMA."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from medalign.data import chat
from medalign.data.dialogue import turns

TALK = turns(
    [
        {"from": "human", "value": "Is the heart enlarged?\n<image>"},
        {"from": "gpt", "value": "No, the heart is normal."},
        {"from": "human", "value": "And no nodule?"},
        {"from": "gpt", "value": "no"},
    ]
)
TEXTS = [turn["value"] for turn in TALK] + [chat.SYSTEM, "### Human: ### Assistant: user assistant system"]
BLANK = "\u2581"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (  # writes something before the last answer only, as reasoning models' templates do
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


def byte_level(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE in the way of GPT-2, Qwen and SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<patch>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def llama_like(template: str | None = LLAMA_2) -> PreTrainedTokenizerFast:
    """Return a BPE that writes a blank as part of the word behind it and puts <s> first, in the way of LLaMA."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(replacement=BLANK, prepend_scheme="first")
    special, alphabet = ["<unk>", "<s>", "</s>", "<patch>"], [chr(code) for code in range(32, 127)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast
