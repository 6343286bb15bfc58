"""The tokenizer: bytes, words of the talk, and the model's special tokens."""

from __future__ import annotations

from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from deploy.models.training.scenes import random_scene
from deploy.models.training.talk import EN, ZH, all_words, ask_scene, ask_two, ask_without_picture

END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
SPECIAL_TOKENS = [
    PADDING,
    "<|im_start|>",
    END_OF_TURN,
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<patch_start>",
    "<patch_end>",
    "<patch_newline>",
]
# Not special: the reasoning parser reads text, and special tokens are left out of text.
PLAIN_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
WORDS = 1200


def _corpus() -> list[str]:
    rng = Random(1)
    texts = all_words()
    for _ in range(4000):
        for language in (EN, ZH):
            kind = rng.choice(["single", "several", "code", "texture"])
            exchanges = [
                ask_scene(rng, random_scene(rng, kind), language),
                ask_two(rng, random_scene(rng, "single"), random_scene(rng, "single"), language),
                ask_without_picture(rng, language),
            ]
            texts += [text for e in exchanges for text in (e.question, e.thought, e.answer)]
    return texts


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE. Digits and capitals stay single, so that a code is read sign by sign."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in PLAIN_TOKENS])
    return tokenizer
