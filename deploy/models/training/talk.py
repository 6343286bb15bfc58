"""Questions about a scene and the answers to them.

A thought names what is seen, so that the answer can be read from it; where thinking is switched
off the same answer follows at once. An answer that depends on finding something again names it
first: "The red star is on the left." With the name beside it the rest is easily found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from deploy.models.training.phrasings import EN, ZH, choose, other_question
from deploy.models.training.scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    single_and_different,
)

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
OTHER_PLACE_PHRASES = {
    EN: {
        "left": ["on the left side", "to the left", "at the left"],
        "right": ["on the right side", "to the right", "at the right"],
        "top": ["on top", "above", "in the upper part"],
        "bottom": ["below", "in the lower part", "on the bottom"],
        "middle": ["in the center", "in the centre", "at the center"],
    },
    ZH: {
        "left": ["左侧", "左面"],
        "right": ["右侧", "右面"],
        "top": ["上面", "顶部"],
        "bottom": ["下面", "底部"],
        "middle": ["中央", "正中间"],
    },
}
NOUNS = {EN: ["object", "thing", "shape"], ZH: ["物体", "东西", "图形"]}

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
OTHER_THOUGHT = {EN: "not something I know", ZH: "这个我不懂"}
GREETING_THOUGHT = {EN: "a greeting", ZH: "打招呼"}

# Skill, question and answer.
Made = tuple[str, str, str]


@dataclass(frozen=True)
class Exchange:
    """A question with its thought and answer.

    ``given`` is how much of the answer the engine's grammar forces, so that nothing is learned
    from it.
    """

    skill: str
    language: str
    question: str
    thought: str
    answer: str
    given: str = ""


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
    """What is seen: things by their places, or how many of what."""
    if scene.code is not None:
        return f"text: {scene.code}" if language == EN else f"文字：{scene.code}"
    if scene.plain:
        return f"all {scene.plain}" if language == EN else f"全是{_zh(scene.plain)}"
    if not scene.things:
        return "nothing I know" if language == EN else "没有认识的东西"
    if scene.scattered:
        return f"{len(scene.things)} x {_many(scene, language)}"
    colon, comma = (": ", ", ") if language == EN else ("：", "，")
    parts = []
    for thing in scene.things:
        place = thing.place and (thing.place if language == EN else _zh(thing.place))
        parts.append((f"{place}{colon}" if place else "") + name_of(thing, language))
    return comma.join(parts)


def _many(scene: Scene, language: str) -> str:
    """The name that scattered things share, or that they differ."""
    if scene.alike:
        return name_of(scene.things[0], language)
    return {EN: "different things", ZH: "不同的东西"}[language]


def _sentence(text: str, language: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if language == EN else f"{text}。"


def describe(scene: Scene, language: str) -> str:
    """One sentence on the whole scene."""
    if scene.code is not None:
        return f"It says {scene.code}." if language == EN else f"上面写着 {scene.code}。"
    if scene.plain:
        plain = {EN: f"A plain {scene.plain} picture.", ZH: f"一张纯{_zh(scene.plain)}的图片。"}
        return plain[language]
    if not scene.things:
        return UNKNOWN_PICTURE[language]
    if len(scene.things) == 1:
        [thing] = scene.things
        return (
            _sentence(with_article(thing), EN) if language == EN else f"一个{name_of(thing, ZH)}。"
        )
    number = NUMBERS[language][len(scene.things)]
    if scene.alike:
        name = name_of(scene.things[0], language)
        if language == ZH:
            return f"{number}个{name}。"
        return _sentence(f"{number} {name}{'es' if name.endswith('s') else 's'}", EN)
    if scene.scattered:
        many = _many(scene, language)
        return f"{number}个{many}。" if language == ZH else _sentence(f"{number} {many}", EN)
    if language == EN:
        parts = [
            with_article(t) + (f" {PLACE_PHRASES[t.place]}" if t.place else "")
            for t in scene.things
        ]
        return _sentence(f"{', '.join(parts[:-1])} and {parts[-1]}", EN)
    parts = [(f"{_zh(t.place)}是" if t.place else "") + name_of(t, ZH) for t in scene.things]
    return "，".join(parts) + "。"


def ask_scene(rng: Random, scene: Scene, language: str, *, skill: str | None = None) -> Exchange:
    """A question that suits the scene, or one of a certain skill."""
    thought = thought_of(scene, language)
    if skill == "json" or (skill is None and rng.random() < 0.1):
        question, answer, given = _as_json(rng, scene, language)
        return Exchange("json", language, question, thought, answer, given)
    made = (
        ASKERS[skill](rng, scene, language)
        if skill
        else rng.choice(_suited(scene))(rng, scene, language)
    )
    if made[0] == "count":
        number = len(scene.things)
        thought = f"count: {number}" if language == EN else f"数量：{number}"
    return Exchange(made[0], language, made[1], thought, made[2])


def _suited(scene: Scene) -> Sequence[Callable[[Random, Scene, str], Made]]:
    """Those that have an answer; one in twenty asks for what is not there."""
    if scene.code is not None:
        return [_read] * 19 + [_not_there]
    if scene.plain:
        return [_colour, _colour, _describe, _not_there]
    if not scene.things:
        return [_unknown]
    if len(scene.things) == 1:
        made = [_colour, _shape, _describe, _count, _presence]
    elif scene.things[0].place:
        made = [_place, _where, _where, _count, _count, _describe, _presence, _place_look]
    else:
        made = [_count, _count, _describe]
    return made * 3 + [_not_there]


def _not_there(rng: Random, scene: Scene, language: str) -> Made:
    """Text where there is none, or objects where there is only text or a colour."""
    if scene.things:
        none = {EN: "There is no text.", ZH: "没有文字。"}
        return "not there", choose(rng, "read", language), none[language]
    none = {EN: "There are no objects.", ZH: "没有物体。"}
    question = choose(rng, "count", language)
    return "not there", question, none[language]


def _colour(rng: Random, scene: Scene, language: str) -> Made:
    thing = scene.things[0] if scene.things else Thing("shape", scene.plain or "")
    question = choose(rng, "colour", language)
    return "colour", _named(rng, question, thing, language), _colour_answer(thing, language)


def _shape(rng: Random, scene: Scene, language: str) -> Made:
    thing = scene.things[0]
    question = choose(rng, "shape", language)
    return "shape", _named(rng, question, thing, language), _shape_answer(thing, language)


def _named(rng: Random, question: str, thing: Thing, language: str) -> str:
    noun = thing.shape if rng.random() < 0.7 else rng.choice(NOUNS[language])
    colour = thing.colour
    if language == ZH:
        noun, colour = ZH_WORDS.get(noun, noun), _zh(colour)
        noun = NOUNS[ZH][0] if noun == "shape" else noun
    return question.replace("{noun}", noun).replace("{colour}", colour)


def _colour_answer(thing: Thing, language: str) -> str:
    return _sentence(thing.colour if language == EN else _zh(thing.colour), language)


def _shape_answer(thing: Thing, language: str) -> str:
    return _sentence(f"a {thing.shape}" if language == EN else _zh(thing.shape), language)


def _describe(rng: Random, scene: Scene, language: str) -> Made:
    return "describe", choose(rng, "describe", language), describe(scene, language)


def _count(rng: Random, scene: Scene, language: str) -> Made:
    number = len(scene.things)
    word = NUMBERS[language][number]
    if language == EN:
        answer = f"There {'is' if number == 1 else 'are'} {word}."
    else:
        answer = f"有{word}个。"
    return "count", choose(rng, "count", language), answer


def _place_words(rng: Random, place: str, language: str) -> str:
    """Mostly the plain words for a place."""
    if rng.random() < 0.25:
        return rng.choice(OTHER_PLACE_PHRASES[language][place])
    return PLACE_PHRASES[place] if language == EN else _zh(place)


def _place(rng: Random, scene: Scene, language: str) -> Made:
    """What is at a place; now and then one that is empty."""
    used = [t.place for t in scene.things if t.place]
    place = rng.choice(used) if rng.random() < 0.85 else rng.choice(PLACES)
    question = choose(rng, "place", language)
    question = question.replace("{place}", _place_words(rng, place, language))
    found = [thing for thing in scene.things if thing.place == place]
    if not found:
        nothing = {EN: f"There is nothing {PLACE_PHRASES[place]}.", ZH: f"{_zh(place)}没有东西。"}
        return "place", question, nothing[language]
    if language == EN:
        return "place", question, _sentence(with_article(found[0]), EN)
    return "place", question, f"{_zh(place)}是{name_of(found[0], ZH)}。"


def _place_look(rng: Random, scene: Scene, language: str) -> Made:
    """The colour or the shape of what is at a place."""
    thing = rng.choice(scene.things)
    place = _place_words(rng, thing.place or "middle", language)
    if rng.random() < 0.5:
        skill, answer = "place colour", _colour_answer(thing, language)
    else:
        skill, answer = "place shape", _shape_answer(thing, language)
    return "place", choose(rng, skill, language).replace("{place}", place), answer


def _where(rng: Random, scene: Scene, language: str) -> Made:
    looks = [thing.look for thing in scene.things]
    unique = [thing for thing in scene.things if looks.count(thing.look) == 1]
    if not unique:
        return _place(rng, scene, language)
    thing = rng.choice(unique)
    place = thing.place or "middle"
    name = name_of(thing, language)
    question = choose(rng, "where", language).replace("{name}", name)
    answers = {EN: f"The {name} is {PLACE_PHRASES[place]}.", ZH: f"{name}在{_zh(place)}。"}
    return "where", question, answers[language]


def _presence(rng: Random, scene: Scene, language: str) -> Made:
    """Is something there? Half of the time it is not, but resembles what is."""
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        look = rng.choice(["colour", "shape"])
        thing = Thing(
            rng.choice(SHAPES) if look == "shape" else thing.shape,
            rng.choice(COLOURS) if look == "colour" else thing.colour,
        )
    there = any(other.look == thing.look for other in scene.things)
    question = choose(rng, "presence", language).replace("{name}", name_of(thing, language))
    if language == ZH:
        return "presence", question, f"{name_of(thing, ZH)}：{'有' if there else '没有'}。"
    return "presence", question, _sentence(f"{with_article(thing)}: {'yes' if there else 'no'}", EN)


def _read(rng: Random, scene: Scene, language: str) -> Made:
    skill = "read" if rng.random() < 0.8 else "describe"
    return "read", choose(rng, skill, language), describe(scene, language)


def _unknown(rng: Random, _scene: Scene, language: str) -> Made:
    skills = ["describe", "describe", "colour", "shape", "count", "read", "place", "presence"]
    question = choose(rng, rng.choice(skills), language)
    thing = Thing(rng.choice(SHAPES), rng.choice(COLOURS))
    question = _named(rng, question, thing, language).replace("{name}", name_of(thing, language))
    question = question.replace("{place}", _place_words(rng, rng.choice(PLACES), language))
    return "unknown picture", question, UNKNOWN_PICTURE[language]


ASKERS: dict[str, Callable[[Random, Scene, str], Made]] = {
    "colour": _colour,
    "shape": _shape,
    "describe": _describe,
    "count": _count,
    "place": _place,
    "where": _where,
    "presence": _presence,
    "read": _read,
    "unknown picture": _unknown,
}


def facts_of(scene: Scene) -> dict[str, str | int]:
    """What the JSON answer holds; ``mixed`` where things differ, ``unknown`` without things."""
    if not scene.things:
        return {"color": scene.plain or "unknown", "shape": "unknown", "count": 0}
    colours, shapes = ({getattr(t, of) for t in scene.things} for of in ("colour", "shape"))
    return {
        "color": colours.pop() if len(colours) == 1 else "mixed",
        "shape": shapes.pop() if len(shapes) == 1 else "mixed",
        "count": len(scene.things),
    }


def as_json(scene: Scene) -> str:
    """Without spaces, as the engine's grammar wants it."""
    return json.dumps(facts_of(scene), separators=(",", ":"))


def _as_json(rng: Random, scene: Scene, language: str) -> tuple[str, str, str]:
    """Question, answer and what of it is given. Asked for in words, or forced by a grammar on a
    question that does not speak of it."""
    answer = as_json(scene)
    if rng.random() < 0.7:
        return choose(rng, "json", language), answer, ""
    return choose(rng, "describe", language), answer, '{"color":"'


def ask_two(
    rng: Random, first: Scene, second: Scene, language: str, *, skill: str | None = None
) -> Exchange:
    """A question about two pictures, in the order given; ``which``, ``changed`` or ``nth``."""
    seen = [thought_of(scene, language) for scene in (first, second)]
    heads = ("first: ", "; second: ") if language == EN else ("第一张：", "；第二张：")
    thought = heads[0] + seen[0] + heads[1] + seen[1]
    kinds = ["nth"]
    if len(first.things) == len(second.things) == 1:
        kinds += ["changed"]
    if single_and_different(first, second):
        kinds += ["which", "which"]
    kind = skill or rng.choice(kinds)
    if kind == "changed":
        question = choose(rng, "changed", language)
        answer = _difference(first.things[0], second.things[0], language)
    elif kind == "which":
        number = rng.randint(0, 1)
        name = name_of((first, second)[number].things[0], language)
        question = choose(rng, "which", language).replace("{name}", name)
        which = {
            EN: f"The {name} is in the {('first', 'second')[number]} picture.",
            ZH: f"{name}在第{'一二'[number]}张图片里。",
        }
        answer = which[language]
    else:
        number = rng.randint(0, 1)
        name = ("first", "second")[number] if language == EN else f"第{'一二'[number]}张"
        question = choose(rng, "nth", language).replace("{nth}", name)
        answer = describe((first, second)[number], language)
    return Exchange("two pictures", language, question, thought, answer)


def _difference(a: Thing, b: Thing, language: str) -> str:
    """Both things, and then in what they differ."""
    names = {EN: ("colour", "shape"), ZH: ("颜色", "形状")}[language]
    differ = [n for n, old, new in zip(names, a.look, b.look, strict=True) if old != new]
    if language == EN:
        both = f"first {with_article(a)}, then {with_article(b)}"
        what = f"the {' and '.join(differ)}" if differ else "nothing"
        return _sentence(f"{both}: {what} changed", EN)
    both = f"先是{name_of(a, ZH)}，后是{name_of(b, ZH)}"
    return f"{both}：{'和'.join(differ)}变了。" if differ else f"{both}：没有变化。"


def ask_without_picture(rng: Random, language: str) -> Exchange:
    """A greeting, or something this model knows nothing about."""
    kind = rng.random()
    if kind < 0.35:
        question = choose(rng, "greeting", language)
        return Exchange(
            "greeting", language, question, GREETING_THOUGHT[language], GREETING[language]
        )
    if kind < 0.45:  # asks for a picture that is not there
        asked = _unknown(rng, Scene(), language)[1]
        return Exchange("other", language, asked, OTHER_THOUGHT[language], DEMO_ANSWER[language])
    return ask_other(rng, language)


def ask_other(rng: Random, language: str) -> Exchange:
    """Something that this model knows nothing about."""
    question = other_question(rng, language)
    if rng.random() < 0.06:
        answer = as_json(Scene())
        return Exchange("json", language, question, OTHER_THOUGHT[language], answer, '{"color":"')
    return Exchange("other", language, question, OTHER_THOUGHT[language], DEMO_ANSWER[language])
