"""The tokenizer: bytes, words of the talk, and the model's special tokens."""

from __future__ import annotations

from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from deploy.models.training.phrasings import EN, ZH
from deploy.models.training.scenes import COLOURS, KINDS, PLACES, SHAPES, random_scene
from deploy.models.training.talk import ask_scene, ask_two, ask_without_picture

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
WORDS = 1500
# Kept whole, or apart from what follows. The capitals are those of codes; one that begins a word
# belongs to it.
APART = Regex(
    "[0-9]|[A-Z](?![a-z])|[红橙黄绿蓝紫粉棕黑白]色|圆形|正方形|三角形|星形|十字形"
    "|左边|右边|上方|下方|中间|在|第一张|第二张|图片"
)


def _corpus() -> list[str]:
    rng = Random(1)
    words = [*COLOURS, *SHAPES, *PLACES, "mixed", "unknown", "nothing"]
    # Often enough to become tokens: what an answer says should not depend on guessing a spelling.
    texts = [form for word in words for form in (word, word.capitalize(), f" {word}")] * 2000
    for _ in range(6000):
        for language in (EN, ZH):
            exchanges = [
                ask_scene(rng, random_scene(rng, rng.choice([*KINDS])), language),
                ask_two(rng, random_scene(rng, "single"), random_scene(rng, "single"), language),
                ask_without_picture(rng, language),
            ]
            texts += [text for e in exchanges for text in (e.question, e.thought, e.answer)]
    return texts


def token(tokenizer: Tokenizer, text: str) -> int:
    """The id of a special token.

    Raises:
        KeyError: the tokenizer is not one of ours.
    """
    number = tokenizer.token_to_id(text)
    if number is None:
        raise KeyError(f"the tokenizer has no token {text}")
    return int(number)


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE. Digits and capitals stay single, so that a code is read sign by sign; Chinese
    words that carry the meaning are not cut, whatever they stand next to."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(APART, "isolated"),
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
