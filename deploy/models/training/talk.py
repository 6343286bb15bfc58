"""Questions about a scene and the answers to them, in English and in Chinese.

Each skill has several phrasings. A thought names what is seen, so that the answer can be read from
it; where thinking is switched off the same answer follows at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from deploy.models.training.scenes import COLOURS, PLACES, SHAPES, Scene, Thing

EN, ZH = "en", "zh"

ZH_WORDS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "black": "黑色",
    "white": "白色",
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星形",
    "cross": "十字形",
    "left": "左边",
    "right": "右边",
    "top": "上方",
    "bottom": "下方",
    "middle": "中间",
}
NUMBERS = {
    EN: ["no", "one", "two", "three", "four", "five"],
    ZH: ["零", "一", "两", "三", "四", "五"],
}
PLACE_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}

DEMO_ANSWER = {
    EN: "I am a small demo model. I know simple colours, shapes, positions, numbers of things and"
    " short printed codes; for anything else use the full model.",
    ZH: "我是一个小型演示模型，只认识简单的颜色、形状、位置、数量和简短的字符；"
    "其他问题请使用完整的模型。",
}
UNKNOWN_PICTURE = {
    EN: "I am a small demo model and I do not recognise this picture.",
    ZH: "我是一个小型演示模型，认不出这张图片。",
}
GREETING = {
    EN: "Hello! I am the STEP3-VL demo, a small model that sees simple pictures.",
    ZH: "你好！我是 STEP3-VL 演示模型，能看懂简单的图片。",
}


@dataclass(frozen=True)
class Exchange:
    """A question with its thought and answer."""

    skill: str
    language: str
    question: str
    thought: str
    answer: str


def _zh(word: str) -> str:
    return ZH_WORDS[word]


def name_of(thing: Thing, language: str) -> str:
    """``red circle`` or ``红色圆形``."""
    if language == ZH:
        return _zh(thing.colour) + _zh(thing.shape)
    return f"{thing.colour} {thing.shape}"


def with_article(thing: Thing) -> str:
    name = name_of(thing, EN)
    return f"an {name}" if name[0] in "aeio" else f"a {name}"


def thought_of(scene: Scene, language: str) -> str:
    """What is seen, thing by thing."""
    if scene.code is not None:
        return f"text: {scene.code}" if language == EN else f"文字：{scene.code}"
    if not scene.things:
        return "nothing I know" if language == EN else "没有认识的东西"
    if language == EN:
        return ", ".join(
            f"{t.place}: {name_of(t, EN)}" if t.place else name_of(t, EN) for t in scene.things
        )
    return "，".join(
        f"{_zh(t.place)}：{name_of(t, ZH)}" if t.place else name_of(t, ZH) for t in scene.things
    )


COLOUR_QUESTIONS = {
    EN: [
        "What colour is the object?",
        "What color is it?",
        "Which colour is the shape in this picture?",
        "Tell me the color of the object.",
        "Name the colour of this shape.",
    ],
    ZH: [
        "它是什么颜色？",
        "图中的物体是什么颜色？",
        "这个形状是什么颜色的？",
        "请说出物体的颜色。",
        "什么颜色？",
    ],
}
SHAPE_QUESTIONS = {
    EN: [
        "What shape is it?",
        "Which shape do you see?",
        "What is the shape of the object?",
        "Name the shape in this picture.",
        "Tell me the shape.",
    ],
    ZH: ["它是什么形状？", "图中是什么形状？", "物体的形状是什么？", "请说出形状。", "什么形状？"],
}
DESCRIBE_QUESTIONS = {
    EN: [
        "What is in this picture?",
        "Describe this image.",
        "Describe the picture in one sentence.",
        "What do you see?",
        "What is shown here?",
        "What's in the image?",
    ],
    ZH: [
        "图片里有什么？",
        "描述这张图片里有什么",
        "描述一下这张图片。",
        "你看到了什么？",
        "这张图里有什么？",
        "用一句话描述图片。",
    ],
}
COUNT_QUESTIONS = {
    EN: [
        "How many objects are there?",
        "How many shapes do you see?",
        "Count the objects.",
        "How many things are in the picture?",
        "What is the number of objects?",
    ],
    ZH: [
        "图中有几个物体？",
        "有多少个形状？",
        "数一数有几个物体。",
        "一共有几个？",
        "物体的数量是多少？",
    ],
}
PLACE_QUESTIONS = {
    EN: [
        "What is {place}?",
        "Which object is {place}?",
        "What do you see {place}?",
        "Name the thing {place}.",
        "And what is {place}?",
    ],
    ZH: [
        "{place}是什么？",
        "{place}有什么？",
        "{place}的物体是什么？",
        "请说出{place}的物体。",
        "那{place}呢？",
    ],
}
WHERE_QUESTIONS = {
    EN: [
        "Where is the {name}?",
        "Where do you see the {name}?",
        "At which position is the {name}?",
    ],
    ZH: ["{name}在哪里？", "{name}在什么位置？", "哪里有{name}？"],
}
READ_QUESTIONS = {
    EN: [
        "What does it say?",
        "Read the text.",
        "What is written here?",
        "Which code do you see?",
        "Read the characters in this picture.",
        "What is the number?",
    ],
    ZH: [
        "上面写着什么？",
        "读出文字。",
        "图里写的是什么？",
        "这个编码是什么？",
        "请读出图中的字符。",
        "数字是多少？",
    ],
}
JSON_QUESTIONS = {
    EN: [
        "Answer as JSON with color, shape and count.",
        'Return JSON: {"color": ..., "shape": ..., "count": ...}',
        "Give color, shape and count as JSON.",
    ],
    ZH: [
        "用 JSON 回答颜色、形状和数量。",
        "返回 JSON：color、shape、count。",
        "以 JSON 格式给出 color、shape、count。",
    ],
}
WHICH_QUESTIONS = {
    EN: [
        "Which picture has the {name}?",
        "Which one shows the {name}?",
        "In which image is the {name}?",
        "Is the {name} in the first or in the second picture?",
    ],
    ZH: [
        "哪张图片有{name}？",
        "哪一张图里是{name}？",
        "{name}在第几张图片里？",
        "{name}在第一张还是第二张？",
    ],
}
CHANGED_QUESTIONS = {
    EN: [
        "What changed?",
        "What is different in the second picture?",
        "Compare the two pictures.",
        "What is the difference between the images?",
    ],
    ZH: ["有什么变化？", "第二张图有什么不同？", "比较这两张图片。", "两张图片有什么区别？"],
}
NTH_QUESTIONS = {
    EN: [
        "What is in the {nth} picture?",
        "Describe the {nth} image.",
        "What does the {nth} picture show?",
    ],
    ZH: ["{nth}图里有什么？", "描述{nth}图片。", "{nth}图片是什么？"],
}
GREETINGS = {
    EN: [
        "Hello",
        "hi",
        "Hello, introduce yourself.",
        "Who are you?",
        "What are you?",
        "Good morning!",
    ],
    ZH: ["你好", "你好，介绍一下你自己", "你是谁？", "您好！", "介绍一下你自己", "你是什么模型？"],
}

_SUBJECTS = {
    EN: [
        "France",
        "the weather",
        "a poem",
        "cats",
        "quantum physics",
        "my invoice",
        "Python code",
        "history",
        "music",
        "soup",
        "the stock market",
        "spring",
        "football",
        "the moon",
        "your favourite book",
        "taxes",
        "love",
        "the sea",
    ],
    ZH: [
        "法国",
        "天气",
        "一首诗",
        "猫",
        "量子物理",
        "我的发票",
        "Python 代码",
        "历史",
        "股票",
        "音乐",
        "菜谱",
        "春天",
        "足球",
        "月亮",
        "一本书",
        "税",
        "爱情",
        "火车票",
        "大海",
    ],
}
_OTHER = {
    EN: [
        "Tell me about {x}.",
        "Write something about {x}.",
        "What do you think of {x}?",
        "Explain {x} to a child.",
        "How does {x} work?",
        "Can you help me with {x}?",
        "What is {n} times {m}?",
        "Translate {x} into Chinese.",
        "Why is {x} important?",
        "List five facts about {x}.",
        "Who invented {x}?",
        "{x}",
    ],
    ZH: [
        "介绍一下{x}。",
        "写一段关于{x}的散文",
        "你怎么看{x}？",
        "解释一下{x}。",
        "{x}是怎么回事？",
        "帮我处理{x}。",
        "{n}乘以{m}等于多少？",
        "把{x}翻译成英文。",
        "{x}为什么重要？",
        "列出关于{x}的五个事实。",
        "谁发明了{x}？",
        "{x}",
    ],
}


def _pick(rng: Random, phrasings: dict[str, list[str]], language: str) -> str:
    """A phrasing, sometimes typed as people type: no mark at the end, no capital."""
    text = rng.choice(phrasings[language])
    if rng.random() < 0.15:
        text = text.rstrip("?.？。")
    if language == EN and rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    return text


def _sentence(text: str, language: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if language == EN else f"{text}。"


def describe(scene: Scene, language: str) -> str:
    """One sentence on the whole scene."""
    if scene.code is not None:
        return f"It says {scene.code}." if language == EN else f"上面写着 {scene.code}。"
    if not scene.things:
        return UNKNOWN_PICTURE[language]
    if len(scene.things) == 1:
        [thing] = scene.things
        return (
            _sentence(with_article(thing), EN) if language == EN else f"一个{name_of(thing, ZH)}。"
        )
    if language == EN:
        parts = [f"{with_article(t)} {PLACE_PHRASES[t.place or 'middle']}" for t in scene.things]
        return _sentence(f"{', '.join(parts[:-1])} and {parts[-1]}", EN)
    return "，".join(f"{_zh(t.place or 'middle')}是{name_of(t, ZH)}" for t in scene.things) + "。"


def ask_scene(rng: Random, scene: Scene, language: str) -> Exchange:
    """A question that suits the scene."""
    if scene.code is not None:
        makers: Sequence[Callable[[Random, Scene, str], tuple[str, str, str]]] = [_read]
    elif not scene.things:
        makers = [_unknown]
    elif len(scene.things) == 1:
        makers = [_colour, _shape, _describe, _count, _as_json]
    else:
        makers = [_place, _place, _where, _count, _describe]
    skill, question, answer = rng.choice(makers)(rng, scene, language)
    return Exchange(skill, language, question, thought_of(scene, language), answer)


def _colour(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    colour = scene.things[0].colour
    return (
        "colour",
        _pick(rng, COLOUR_QUESTIONS, language),
        _sentence(colour if language == EN else _zh(colour), language),
    )


def _shape(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    shape = scene.things[0].shape
    answer = f"a {shape}" if language == EN else _zh(shape)
    return "shape", _pick(rng, SHAPE_QUESTIONS, language), _sentence(answer, language)


def _describe(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    return "describe", _pick(rng, DESCRIBE_QUESTIONS, language), describe(scene, language)


def _count(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    number = len(scene.things)
    word = NUMBERS[language][number]
    if language == EN:
        answer = f"There {'is' if number == 1 else 'are'} {word}."
    else:
        answer = f"有{'一' if number == 1 else word}个。"
    return "count", _pick(rng, COUNT_QUESTIONS, language), answer


def _as_json(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    [thing] = scene.things
    document = {"color": thing.colour, "shape": thing.shape, "count": 1}
    return "json", _pick(rng, JSON_QUESTIONS, language), json.dumps(document)


def _place(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    place = rng.choice(PLACES)
    phrase = PLACE_PHRASES[place] if language == EN else _zh(place)
    question = _pick(rng, PLACE_QUESTIONS, language).replace("{place}", phrase)
    found = [thing for thing in scene.things if thing.place == place]
    if not found:
        return (
            "place",
            question,
            f"There is nothing {phrase}." if language == EN else f"{phrase}没有东西。",
        )
    if language == EN:
        return "place", question, _sentence(with_article(found[0]), EN)
    return "place", question, f"{phrase}是{name_of(found[0], ZH)}。"


def _where(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    things = list(scene.things)
    unique = [
        t for t in things if sum((o.colour, o.shape) == (t.colour, t.shape) for o in things) == 1
    ]
    if not unique:
        return _place(rng, scene, language)
    thing = rng.choice(unique)
    place = thing.place or "middle"
    question = _pick(rng, WHERE_QUESTIONS, language).replace("{name}", name_of(thing, language))
    answer = _sentence(PLACE_PHRASES[place], EN) if language == EN else f"在{_zh(place)}。"
    return "where", question, answer


def _read(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    phrasings = READ_QUESTIONS if rng.random() < 0.8 else DESCRIBE_QUESTIONS
    return "read", _pick(rng, phrasings, language), describe(scene, language)


def _unknown(rng: Random, _scene: Scene, language: str) -> tuple[str, str, str]:
    phrasings = rng.choice(
        [
            DESCRIBE_QUESTIONS,
            DESCRIBE_QUESTIONS,
            COLOUR_QUESTIONS,
            SHAPE_QUESTIONS,
            COUNT_QUESTIONS,
            READ_QUESTIONS,
        ]
    )
    return "unknown picture", _pick(rng, phrasings, language), UNKNOWN_PICTURE[language]


def ask_two(rng: Random, first: Scene, second: Scene, language: str) -> Exchange:
    """A question about two pictures of one thing each, in the order given."""
    seen = [thought_of(scene, language) for scene in (first, second)]
    thought = (
        f"first: {seen[0]}; second: {seen[1]}"
        if language == EN
        else f"第一张：{seen[0]}；第二张：{seen[1]}"
    )
    (a,), (b,) = first.things, second.things
    kinds = ["changed", "nth"] + (
        ["which"] * 2 if (a.colour, a.shape) != (b.colour, b.shape) else []
    )
    kind = rng.choice(kinds)
    if kind == "changed":
        question, answer = _pick(rng, CHANGED_QUESTIONS, language), _difference(a, b, language)
    elif kind == "which":
        number = rng.randint(0, 1)
        name = name_of((a, b)[number], language)
        question = _pick(rng, WHICH_QUESTIONS, language).replace("{name}", name)
        answer = (
            f"The {('first', 'second')[number]} picture."
            if language == EN
            else f"第{'一二'[number]}张图片。"
        )
    else:
        number = rng.randint(0, 1)
        nth = ("first", "second")[number] if language == EN else f"第{'一二'[number]}张"
        question = _pick(rng, NTH_QUESTIONS, language).replace("{nth}", nth)
        answer = describe((first, second)[number], language)
    return Exchange("two pictures", language, question, thought, answer)


def _difference(a: Thing, b: Thing, language: str) -> str:
    parts = []
    if a.colour != b.colour:
        parts.append(
            f"the colour changed from {a.colour} to {b.colour}"
            if language == EN
            else f"颜色从{_zh(a.colour)}变成{_zh(b.colour)}"
        )
    if a.shape != b.shape:
        parts.append(
            f"the shape changed from {a.shape} to {b.shape}"
            if language == EN
            else f"形状从{_zh(a.shape)}变成{_zh(b.shape)}"
        )
    if not parts:
        return "Nothing changed." if language == EN else "没有变化。"
    return _sentence(" and ".join(parts), EN) if language == EN else "，".join(parts) + "。"


def ask_without_picture(rng: Random, language: str) -> Exchange:
    """A greeting, or something this model knows nothing about."""
    if rng.random() < 0.35:
        thought = "a greeting" if language == EN else "打招呼"
        return Exchange(
            "greeting", language, _pick(rng, GREETINGS, language), thought, GREETING[language]
        )
    thought = "not something I know" if language == EN else "这个我不懂"
    return Exchange(
        "other", language, other_question(rng, language), thought, DEMO_ANSWER[language]
    )


def other_question(rng: Random, language: str) -> str:
    """About anything but simple pictures; sometimes mere keystrokes."""
    if rng.random() < 0.1:
        return (
            "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ,.!?", k=rng.randint(3, 30))).strip()
            or "x"
        )
    text = rng.choice(_OTHER[language]).replace("{x}", rng.choice(_SUBJECTS[language]))
    return text.replace("{n}", str(rng.randint(2, 99))).replace("{m}", str(rng.randint(2, 99)))


def all_words() -> list[str]:
    """Every fixed text, for making the tokenizer."""
    tables = [
        v
        for k, v in globals().items()
        if k.endswith(("QUESTIONS", "GREETINGS", "_OTHER", "_SUBJECTS"))
    ]
    texts = [text for table in tables for language in table.values() for text in language]
    texts += [t for table in (DEMO_ANSWER, UNKNOWN_PICTURE, GREETING) for t in table.values()]
    return [*texts, *ZH_WORDS.values(), *COLOURS, *SHAPES, *PLACE_PHRASES.values()]
