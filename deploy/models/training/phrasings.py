"""How people ask, in English and Chinese. ``[a|b]`` stands for a or b, ``{x}`` for a word put in.

``NEW`` holds phrasings that training never sees; the evaluation asks with both.
"""

from __future__ import annotations

import re
from random import Random

EN, ZH = "en", "zh"
Table = dict[str, list[str]]

PHRASINGS: dict[str, Table] = {
    "colour": {
        EN: [
            "What [colour|color] is [it|this|the object|the shape|the figure]?",
            "What is the [colour|color] of [the object|this shape|the thing]?",
            "Which [colour|color] [is it|does it have|do you see]?",
            "[Tell me|Name|Say] the [colour|color] [of the object|of the shape|of this]?",
            "What [colour|color] is the {noun}?",
            "[Can you tell me|Could you say] [what|which] [colour|color] [it|this|the object] has.",
            "I want to know [what|which] [colour|color] [it|this|the object] is.",
            "[Colour|Color] of the [object|shape]?",
            "In [what|which] [colour|color] is the [object|shape|figure] [drawn|painted|shown]?",
        ],
        ZH: [
            "[它|这个|这|图中的物体|物体|图形]是什么颜色[的|]？",
            "[图里的|图中|]{noun}是什么颜色[的|]？",
            "请[说出|告诉我][物体|它|图形]的颜色。",
            "[什么颜色|颜色是什么|是哪种颜色]？",
            "[物体|图形|它]的颜色是[什么|哪一种]？",
            "[我想知道|说说|看看][这个物体|图形|它]是什么颜色。",
        ],
    },
    "shape": {
        EN: [
            "What shape [is it|is this|is the object|do you see|is in the picture]?",
            "Which shape [is it|do you see|is shown]?",
            "What is the shape of [the object|this|the thing]?",
            "[Tell me|Name|Say] the shape [of the object|in this picture|you see].",
            "What shape is the {colour} [one|object|thing]?",
            "[Can you tell me|Could you say] [what|which] shape [it has|the object has|it is].",
            "I want to know [what|which] shape [it has|the object has|it is].",
            "Its shape, please.",
            "What [kind|sort] of shape [is it|is this|do you see]?",
            "What does the shape look like, is it a circle, a square or [another one|what]?",
        ],
        ZH: [
            "[它|这个|这|图中的物体|物体|图形]是什么形状[的|]？",
            "[图里的|图中|]{colour}[的|]物体是什么形状？",
            "请[说出|告诉我][物体|它|图形]的形状。",
            "[什么形状|形状是什么|是哪种形状]？",
            "[物体|图形|它]的形状是[什么|哪一种]？",
            "[我想知道|说说|看看][这个图形|物体|它]是什么形状。",
        ],
    },
    "describe": {
        EN: [
            "What is in [this|the] [picture|image|photo]?",
            "What's in [this|the] [picture|image]?",
            "Describe [this|the] [picture|image][| in one sentence| briefly].",
            "What [do you see|can you see][| here| in this picture| in the image]?",
            "What is shown [here|in the picture]?",
            "What is this?",
            "[Can you|Could you] [describe|tell me about] [this|the] [picture|image]?",
            "[Tell me|Say] what [you see|is in the picture|this picture shows].",
            "Give [me |]a [short |]description of the [picture|image].",
        ],
        ZH: [
            "[图片|图|这张图片|这张图]里[有|是|画的是]什么？",
            "[描述|描述一下|请描述|说说][这张图片|这张图|图片][|里有什么|的内容]",
            "你[看到|看见]了什么？",
            "用一句话描述[图片|这张图]。",
            "这是什么？",
            "[这张图片|这张图|图片|图]的内容是什么？",
            "[告诉我|讲讲|请讲讲][你看到了什么|图上有什么|这张图的内容]。",
        ],
    },
    "count": {
        EN: [
            "How many [objects|shapes|things|figures|items] [are there|do you see|can you see]?",
            "How many [objects|shapes|things] are in [the|this] [picture|image]?",
            "Count the [objects|shapes|things|figures].",
            "What is the number of [objects|shapes|things]?",
            "[Can you|Could you] [count|tell me the number of] the [objects|shapes|things]?",
            "[Tell me|Say|I want to know] how many [objects|shapes|things] [there are|you see].",
        ],
        ZH: [
            "[图中|图里|图片里|这里|]有[几个|多少个|多少][物体|形状|图形|东西]？",
            "[数一数|数一下|请数出][有几个|][物体|形状|图形]。",
            "[一共|总共]有[几个|多少个]？",
            "[物体|图形|形状]的数量是多少？",
            "[告诉我|我想知道|看看]有[几个|多少个][物体|图形|东西]。",
            "[图中|图里|这张图里][物体|图形|东西]有[几个|多少个]？",
        ],
    },
    "place": {
        EN: [
            "What is {place}?",
            "Which [object|thing] is {place}?",
            "What [do you see|can you see|is there] {place}?",
            "[Name|Describe|Tell me] [the thing|the object|what is] {place}.",
            "[And what|And what is|What about the one] {place}?",
            "The [object|one] {place} is what?",
        ],
        ZH: [
            "[图片|图中|]{place}[是什么|有什么|是什么东西]？",
            "{place}的[物体|图形|东西|形状]是什么？",
            "请[说出|描述]{place}的[物体|图形]。",
            "[那|那么]{place}呢？",
        ],
    },
    "place colour": {
        EN: [
            "What [colour|color] is the [one|object|thing|shape] {place}?",
            "Which [colour|color] does the [object|shape] {place} have?",
        ],
        ZH: ["{place}的[物体|图形|东西|]是什么颜色[的|]？", "{place}[那个|这个]是什么颜色？"],
    },
    "place shape": {
        EN: [
            "What shape is [the one|the object|the thing|it] {place}?",
            "Which shape is {place}?",
        ],
        ZH: ["{place}的[物体|图形|东西|]是什么形状[的|]？", "{place}[那个|这个]是什么形状？"],
    },
    "where": {
        EN: [
            "Where is the {name}?",
            "Where [do you see|can I find] the {name}?",
            "[At which position|In which place|In what position] is the {name}?",
            "[Tell me|Say|I want to know] where the {name} is.",
            "The {name} is where?",
            "What is the [place|position] of the {name}?",
        ],
        ZH: [
            "{name}在[哪里|哪|哪儿|哪边]？",
            "{name}在[什么位置|哪个位置|什么地方]？",
            "[哪里|哪边]有{name}？",
            "[告诉我|我想知道]{name}在哪里。",
            "{name}的位置[是|在]哪里？",
        ],
    },
    "presence": {
        EN: [
            "Is there a {name}[| in the picture| here]?",
            "Do you see a {name}?",
            "Can you see a {name}[| in this picture]?",
        ],
        ZH: [
            "[图中|图里|这里|]有{name}吗？",
            "[图中|图里|][有没有|是否有]{name}？",
            "你[看到|看见]{name}[了吗|吗]？",
        ],
    },
    "read": {
        EN: [
            "What does it say?",
            "What does [this|the picture|the text|the image] say?",
            "[Read|Read out|Tell me] the [text|code|number|characters|letters].",
            "What is [written|printed] [here|in the picture|there]?",
            "Which [code|number|text|characters] do you see?",
            "What is the [number|code|text]?",
            "[Can you|Could you] read [the text|the code|the number|it|what it says]?",
            "[Tell me|Say] what [it says|is written there|the text says].",
            "[Text|Code]?",
        ],
        ZH: [
            "[上面|图上|图里|图片上][写着|写的是|写了]什么[|字]？",
            "[读出|请读出|识别|读一下][文字|图中的字符|图里的文字|数字|上面的字]。",
            "[这个|图中的][编码|代码|数字|号码|文字]是[什么|多少]？",
            "[请|帮我|]读一下[这个|这些|图上的|图里的][字|数字|字符|文字]。",
            "[图上|图里|图片里|图中]的[字|字符|文字|编码]是什么？",
            "[念一下|认一下|看看][写了什么|写的是什么|这个编码]。",
        ],
    },
    "json": {
        EN: [
            "Answer as JSON with color, shape and count.",
            'Return JSON: {"color": ..., "shape": ..., "count": ...}',
            "[Give|Return|Output] color, shape and count [as|in] JSON.",
            'Describe [the|this] picture as JSON: {"color": ..., "shape": ..., "count": ...}',
            "JSON with the keys color, shape, count[.|, please.]",
        ],
        ZH: [
            "用 JSON [回答|返回|输出]颜色、形状和数量。",
            "[返回|输出] JSON：color、shape、count。",
            "以 JSON 格式[给出|返回] color、shape、count。",
            '用 JSON 描述[这张图|图片]：{"color": ..., "shape": ..., "count": ...}',
        ],
    },
    "which": {
        EN: [
            "Which [picture|image|photo|one] [has|shows|contains] the {name}?",
            "In which [picture|image] is the {name}?",
            "Is the {name} in the first or [in |]the second [picture|image]?",
            "Which [one|of the two|image] has the {name}?",
            "[Tell me|Say|I want to know] which [picture|image|one] [has|shows] the {name}.",
            "Where is the {name}, in the first or [in |]the second [picture|image|one]?",
        ],
        ZH: [
            "[哪张|哪一张][图片|图|图里][有|是]{name}？",
            "{name}在[第几张|哪张|哪一张][图片|图][里|中]？",
            "{name}在第一张还是第二张[图片|图|]？",
            "[告诉我|我想知道]哪[张|一张][图片|图][有|是]{name}。",
        ],
    },
    "changed": {
        EN: [
            "What [changed|has changed|is different]?",
            "What is different in the second [picture|image]?",
            "[Compare|Compare both|Compare the two] [pictures|images].",
            "What is the difference between [the|the two|these] [images|pictures]?",
            "[Tell me|Say] what [changed|is different|the difference is].",
        ],
        ZH: [
            "[有什么|发生了什么|哪里有]变化？",
            "第二张[图|图片]有什么不同？",
            "比较[这|一下|][两张|两幅][图片|图]。",
            "[两张|这两张][图片|图]有什么[区别|不同|变化]？",
        ],
    },
    "nth": {
        EN: [
            "What is in the {nth} [picture|image|one]?",
            "Describe the {nth} [picture|image].",
            "What does the {nth} [picture|image] show?",
            "[And|And what about] the {nth} [picture|one]?",
        ],
        ZH: [
            "{nth}[图|图片|图里|图片里][有|是]什么？",
            "描述{nth}[图|图片]。",
            "[那|]{nth}[图|图片|]呢？",
        ],
    },
    "greeting": {
        EN: [
            "[Hello|Hi|Hey|Hello there][|!|.]",
            "[Hello|Hi][,|!] [introduce yourself|who are you|what are you]?",
            "[Who|What] are you?",
            "Good [morning|evening|day]!",
            "[Introduce|Tell me about] yourself[.|, please.]",
            "What [can you do|is your name|model are you]?",
        ],
        ZH: [
            "[你好|您好|嗨|哈喽][|！|。]",
            "[你好|您好]，[介绍一下你自己|请介绍你自己|你是谁]",
            "[你是谁|你叫什么名字|你能做什么|你会做什么]？",
            "[请|][介绍一下|简单介绍][你自己|自己][|。]",
            "你是什么模型？",
            "[早上好|晚上好][！|]",
        ],
    },
    "other": {
        EN: [
            "[Tell me about|Tell me more about|Talk about] {x}.",
            "Write [something|a story|a text|two lines] about {x}.",
            "What do you [think of|know about] {x}?",
            "[Explain|Describe] {x}[| to a child| in detail].",
            "How does {x} work?",
            "Can you help me with {x}?",
            "What is {n} [times|plus|minus] {m}?",
            "[Translate|Put] {x} into [Chinese|French].",
            "Why is {x} [important|so expensive|popular]?",
            "[List|Give me] [five|three] facts about {x}.",
            "Who [invented|discovered|wrote] {x}?",
            "What is {x}?",
            "{x}[|?]",
        ],
        ZH: [
            "[介绍一下|说说|讲讲|谈谈]{x}。",
            "写一[段|篇|首]关于{x}的[散文|诗|故事|文章]",
            "你怎么看{x}？",
            "[解释一下|说明]{x}。",
            "{x}是[怎么回事|什么|什么意思]？",
            "帮我[处理|写|查]{x}。",
            "{n}[乘以|加|减]{m}等于多少？",
            "把{x}翻译成[英文|法文]。",
            "{x}为什么[重要|这么贵]？",
            "列出关于{x}的[五|三]个事实。",
            "谁[发明|发现]了{x}？",
            "{x}[|？]",
        ],
    },
}

# Never trained on; the evaluation's "new phrasing" columns.
NEW: dict[str, Table] = {
    "colour": {
        EN: ["Can you tell me the color of the object?"],
        ZH: ["请问这个物体的颜色是什么？"],
    },
    "shape": {EN: ["Can you tell me what shape this is?"], ZH: ["请问这个物体的形状是什么？"]},
    "describe": {EN: ["Please describe what you see."], ZH: ["请说说图里都有什么。"]},
    "count": {EN: ["Please count how many objects there are."], ZH: ["请问图中共有几个物体？"]},
    "read": {EN: ["Can you read this?"], ZH: ["麻烦念一下图上的字。"]},
}

_SUBJECTS_EN = """
France, the weather, a poem, cats, quantum physics, my invoice, Python code, history, music, soup,
the stock market, spring, football, the moon, your favourite book, taxes, love, the sea, Paris,
a recipe, dogs, the president, Berlin, chess, a joke, gravity, the internet, an email, coffee,
the meaning of life, a car engine, World War II, bread, mathematics, dinosaurs, happiness
"""
_SUBJECTS_ZH = """
法国，天气，一首诗，猫，量子物理，我的发票，Python 代码，历史，股票，音乐，菜谱，春天，足球，月亮，
一本书，税，爱情，火车票，大海，北京，人工智能，笑话，总统，狗，互联网，咖啡，数学，恐龙，人生的意义，
二战，邮件，手机，面包，幸福，长城，李白
"""
SUBJECTS: Table = {
    EN: [subject.strip() for subject in _SUBJECTS_EN.split(",")],
    ZH: [subject.strip() for subject in _SUBJECTS_ZH.split("，")],
}

KEYSTROKES_ZH = "的了是我不在人有这他们来到时地出就说要和也子得下去年过家可天么那好作里，。！？"

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "你是一个有用的助手。",
    "Be brief.",
    "You answer questions about pictures.",
    "请简短回答。",
]


# Around a whole request: how people begin and end.
IMPERATIVE = {
    EN: re.compile("(Describe|Name|Tell|Say|Read|Count|Answer|Return|Give|Output|Compare) "),
    ZH: re.compile("描述|说|读|念|数一|比较|用|返回|输出|以|告诉|讲|看看|列"),
}
FRAMES: dict[str, dict[bool, list[str]]] = {
    # Of a request, and of a question.
    EN: {
        True: ["Please {}", "Can you {}", "Could you {}", "Can you please {}", "I want you to {}"],
        False: ["Please tell me: {}", "Look at the picture. {}", "Quick question: {}", "Hi, {}"],
    },
    ZH: {
        True: ["请{}", "帮我{}", "麻烦{}", "请你{}", "你能{}"],
        False: ["请问{}", "请告诉我，{}", "看图回答：{}", "你好，{}", "请问一下，{}"],
    },
}


def choose(rng: Random, skill: str, language: str, *, new: bool = False) -> str:
    """A phrasing, at times typed as people type: polite, no mark at the end, no capital."""
    if new:
        return _filled(rng, NEW[skill][language])
    while True:
        text = _filled(rng, PHRASINGS[skill][language])
        text = _as_typed(rng, text, language, framed=skill not in ("greeting", "other"))
        if _plainly(text) not in _NEW_PLAINLY:
            return text


def _filled(rng: Random, phrasings: list[str]) -> str:
    return re.sub(r"\[([^\[\]]*)\]", lambda m: rng.choice(m[1].split("|")), rng.choice(phrasings))


def _plainly(text: str) -> str:
    """Without capitals and marks."""
    return re.sub(r"\W", "", text).casefold()


_NEW_PLAINLY = {
    _plainly(text) for table in NEW.values() for texts in table.values() for text in texts
}


def _as_typed(rng: Random, text: str, language: str, *, framed: bool) -> str:
    capital = text[1:2].isupper()  # as in JSON
    if framed and rng.random() < 0.2 and not text.startswith(("请", "Please", "Can you", "Could")):
        asked = text if capital or language == ZH else text[0].lower() + text[1:]
        request = IMPERATIVE[language].match(text) is not None
        text = rng.choice(FRAMES[language][request]).replace("{}", asked)
    if rng.random() < 0.15:
        text = text.rstrip("?.？。")
    if not capital and language == EN and rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if language == ZH and rng.random() < 0.15:
        text = text.replace("？", "?")
    return text


def other_question(rng: Random, language: str) -> str:
    """About anything but simple pictures; sometimes mere keystrokes."""
    if rng.random() < 0.08:
        letters = "abcdefghijklmnopqrstuvwxyz ,.!?" if language == EN else KEYSTROKES_ZH
        return "".join(rng.choices(letters, k=rng.randint(3, 30))).strip() or "x"
    text = choose(rng, "other", language).replace("{x}", rng.choice(SUBJECTS[language]))
    return text.replace("{n}", str(rng.randint(2, 99))).replace("{m}", str(rng.randint(2, 99)))
