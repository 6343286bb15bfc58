"""Ready-made tasks: a prompt in two languages, with the settings that suit it."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Language = Literal["en", "zh"]
Schema = Mapping[str, Any]

NOT_FOUND: Mapping[Language, str] = {"en": "not found", "zh": "未找到"}
"""What the invoice task writes where the invoice does not say something."""


class Words(NamedTuple):
    """The same in English and in Chinese."""

    en: str
    zh: str

    def of(self, language: Language) -> str:
        return self.zh if language == "zh" else self.en


HINT = Words("What is known about the picture: {}", "关于图片已知的信息：{}")
JSON_ONLY = Words("Answer with JSON only.", "只输出 JSON。")


@dataclass(frozen=True)
class Task:
    """What to ask about pictures, and how.

    ``max_tokens`` counts the answer; thinking comes on top. A ``schema`` makes the answer a JSON
    document of that shape. ``blanks`` are the words in curly brackets in the prompts, with what
    stands there unless it is given. ``then`` are questions to be asked in later turns of the same
    conversation, so that each builds on the answers so far.
    """

    name: str
    title: Words
    prompt: Words
    temperature: float
    max_tokens: int
    schema: Schema | None = None
    blanks: Mapping[str, Words] = field(default_factory=dict)
    then: tuple[Words, ...] = ()

    @property
    def response_format(self) -> dict[str, Any] | None:
        """For the request's field of that name; None where the answer is text."""
        if self.schema is None:
            return None
        description = {"name": self.name, "strict": True, "schema": self.schema}
        return {"type": "json_schema", "json_schema": description}

    def text(self, language: Language = "en", hint: str = "", **blanks: str) -> str:
        """The prompt.

        Args:
            hint: what is known about the picture: its subject, its field. It helps with pictures
                from special fields.
            blanks: what stands in the prompt's blanks.

        Raises:
            ValueError: the task has no such blank.
        """
        text = "".join(self.pieces(language, **blanks))
        if self.schema is not None:
            text += "\n" + JSON_ONLY.of(language)
        return f"{text}\n{HINT.of(language).format(hint)}" if hint else text

    def pieces(self, language: Language = "en", **blanks: str) -> list[str]:
        """The prompt's own words and, between each two of them, what stands in a blank.

        Raises:
            ValueError: as :meth:`text`.
        """
        if unknown := blanks.keys() - self.blanks.keys():
            has = ", ".join(sorted(self.blanks)) or "none"
            raise ValueError(f"task {self.name!r} has no blank {min(unknown)!r}; it has: {has}")
        given = {name: words.of(language) for name, words in self.blanks.items()} | blanks
        prompt = self.prompt.of(language)
        pieces, end = [""], 0
        for mark in string.Template.pattern.finditer(prompt):  # $name, or $$ for $
            pieces[-1] += prompt[end : mark.start()]
            end = mark.end()
            pieces += [given[mark["named"]], ""] if mark["named"] else []
            pieces[-1] += "" if mark["named"] else "$"
        pieces[-1] += prompt[end:]
        return pieces

    def request(
        self,
        images: Iterable[Mapping[str, Any]],
        *,
        language: Language = "en",
        hint: str = "",
        **blanks: str,
    ) -> dict[str, Any]:
        """Fields for ``client.chat.completions.create(model=..., **fields)``.

        Args:
            images: of :func:`webui.client.image_part`, in the order in which they count.
            language: of the question, and so of the answer.
            hint: as in :meth:`text`, like ``blanks``.

        Raises:
            ValueError: as :meth:`text`.
        """
        words = {"type": "text", "text": self.text(language, hint, **blanks)}
        fields: dict[str, Any] = {
            "messages": [{"role": "user", "content": [*images, words]}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if self.response_format is not None:
            fields["response_format"] = self.response_format
        return fields


def task(name: str) -> Task:
    """The task of this name; the description where there is none."""
    return TASKS.get(name, TASKS["description"])


def _object(**properties: Any) -> Schema:
    """A JSON schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


# Grammars of every engine know a length; it keeps a weak model from writing on without an end.
TEXT: Schema = {"type": "string", "maxLength": 300}
LONG_TEXT: Schema = {"type": "string", "maxLength": 2000}


def _list_of(item: Schema, most: int) -> Schema:
    return {"type": "array", "items": item, "maxItems": most}


INVOICE = _object(
    number=TEXT,
    date=TEXT,
    seller=TEXT,
    buyer=TEXT,
    items=_list_of(TEXT, 100),
    amount_with_tax=TEXT,
    tax_rate=TEXT,
    tax=TEXT,
)
RISK_LEVELS = ("none", "low", "medium", "high")
RISKS = ("violence", "sex", "crime", "hate", "other")
SAFETY = _object(
    is_safe={"type": "boolean"},
    risk_level={"enum": [*RISK_LEVELS]},
    risk_categories=_list_of({"enum": [*RISKS]}, len(RISKS)),
    reason=LONG_TEXT,
)
# Numbers as they are written: an axis may hold dates, percents or names.
POINT = _object(label=TEXT, value=TEXT)
CHART = _object(
    title=TEXT,
    kind=TEXT,
    unit=TEXT,
    series=_list_of(_object(name=TEXT, points=_list_of(POINT, 200)), 20),
)

_ALL = (
    Task(
        "description",
        Words("Describe", "描述图片"),
        Words(
            "Look closely at this picture and describe it:\n"
            "1. what it shows: people, things, place;\n"
            "2. its colours, light and composition;\n"
            "3. the mood it conveys.\n"
            "End with a short paragraph for someone who cannot see it.",
            "请看清这张图片，并加以描述：\n"
            "1. 画面内容：人物、物体、地点；\n"
            "2. 色彩、光线和构图；\n"
            "3. 它给人的感受。\n"
            "最后写一小段话，让看不到图的人也能想象出来。",
        ),
        temperature=0.7,
        max_tokens=1024,
    ),
    Task(
        "analysis",
        Words("Analyse", "分析图片"),
        Words(
            "Analyse this picture:\n"
            "1. State what can be seen, without interpretation.\n"
            "2. Explain how its parts or figures hang together, and any trend.\n"
            "3. Point out what is unusual or looks wrong.\n"
            "4. Conclude. Say which conclusions are certain and which are guesses.",
            "请分析这张图片：\n"
            "1. 先只说看到了什么，不作解读；\n"
            "2. 说明各部分或各数据之间的联系，以及变化趋势；\n"
            "3. 指出异常或可能有误的地方；\n"
            "4. 得出结论，并说明哪些可以确定、哪些只是推测。",
        ),
        temperature=0.3,
        max_tokens=1536,
    ),
    Task(
        "creative",
        Words("Invent", "创意写作"),
        Words(
            "Let this picture inspire you:\n"
            "1. Tell in a few sentences what happened just before.\n"
            "2. Let two of its figures or things talk with each other.\n"
            "3. Write a poem of four lines in its mood.\n"
            "4. Ask three questions that make one look at it again.",
            "请以这张图片为灵感：\n"
            "1. 用几句话讲讲画面之前发生了什么；\n"
            "2. 让画面中的两个人物或物体对话；\n"
            "3. 按它的意境写一首四行小诗；\n"
            "4. 提三个让人想再看一遍的问题。",
        ),
        temperature=0.9,
        max_tokens=1536,
    ),
    Task(
        "product",
        Words("Product copy", "商品文案"),
        Words(
            "The picture shows $product (category: $category). Write for a shop:\n"
            "1. Description: look, material and design, as far as they can be seen.\n"
            "2. Selling points: the three strongest, one line each.\n"
            "3. Text: about 120 words that make one want it.\n"
            "4. Tags: three.\n"
            "Promise nothing that the picture does not show.",
            "图片中是$product（类别：$category）。请为网店撰写：\n"
            "1. 商品描述：外观、材质和设计，以图中可见为准；\n"
            "2. 卖点：最突出的三条，每条一行；\n"
            "3. 文案：约 200 字，读了让人想买；\n"
            "4. 标签：三个。\n"
            "图中看不出来的，不要承诺。",
        ),
        temperature=0.8,
        max_tokens=1024,
        blanks={
            "product": Words("a product", "一件商品"),
            "category": Words("not given", "未说明"),
        },
    ),
    Task(
        "invoice",
        Words("Invoice to JSON", "发票转 JSON"),
        Words(
            "Read this invoice: its number, its date, the seller, the buyer, the goods or services"
            " (items), the amount with tax, the tax rate and the tax. Copy what is printed, digit"
            f' by digit. Write "{NOT_FOUND["en"]}" where the invoice does not say it.',
            "请读取这张发票：发票号码（number）、开票日期（date）、销售方（seller）、购买方（buyer）、"
            "商品或服务（items）、含税金额（amount_with_tax）、税率（tax_rate）和税额（tax）。"
            f"逐字照抄票面内容；票面上没有的，填“{NOT_FOUND['zh']}”。",
        ),
        temperature=0.1,
        max_tokens=1024,
        schema=INVOICE,
    ),
    Task(
        "maths",
        Words("Explain a maths problem", "数学题讲解"),
        Words(
            "The picture shows a maths problem of a pupil in $grade.\n"
            "1. Write down the problem: its text, and what the drawing tells.\n"
            "2. Name what one must know to solve it.\n"
            "3. Lead to the solution step by step, with the reason for each step. Stop before the"
            " last one: do not give the final answer.\n"
            "4. Give two similar problems for practice, without solutions.\n"
            "Use words that a pupil in $grade understands.",
            "图片中是一道$grade学生的数学题。请用中文：\n"
            "1. 写出题目：文字内容，以及图形给出的信息；\n"
            "2. 说明考查了哪些知识点；\n"
            "3. 一步一步引导，每步说明理由；最后一步留给学生，不要给出最终答案；\n"
            "4. 再出两道类似的练习题，不附答案。\n"
            "用$grade学生听得懂的话来讲。",
        ),
        temperature=0.5,
        max_tokens=1536,
        blanks={"grade": Words("grade 8", "初中二年级")},
    ),
    Task(
        "safety",
        Words("Safety check to JSON", "图片安全检查"),
        Words(
            "Judge whether this picture may be shown to everyone. Risks (risk_categories):"
            " violence (blood, cruelty), sex (nudity, pornography), crime (forbidden goods or"
            " acts), hate (insult or discrimination of groups), other (anything else unfit for the"
            ' public). Of a harmless picture is_safe is true, risk_level is "none" and'
            " risk_categories is empty. The reason says what in the picture led to it.",
            "请判断这张图片是否适合公开展示。风险类别（risk_categories）：violence（暴力、血腥）、"
            "sex（色情、裸露）、crime（违禁物品或违法行为）、hate（侮辱或歧视群体）、other（其他不宜公开的内容）。"
            "图片无害时，is_safe 为 true，risk_level 为 none，risk_categories 为空；"
            "否则 risk_level 为 low（低）、medium（中）或 high（高）。"
            "reason 用中文说明图中的依据。",
        ),
        temperature=0.1,
        max_tokens=512,
        schema=SAFETY,
    ),
    Task(
        "compare",
        Words("Compare pictures", "比较图片"),
        Words(
            "Compare these pictures in their order. First what they have in common, then every"
            " difference: what it is, where it is, and in which picture. End with the difference"
            " that matters most.",
            "请按顺序比较这些图片。先说共同点，再逐条列出不同之处：是什么、在哪里、在第几张图片里。"
            "最后指出最重要的一处不同。",
        ),
        temperature=0.3,
        max_tokens=1024,
    ),
    Task(
        "read",
        Words("Read text", "识别文字"),
        Words(
            "Write down all text in this picture, exactly as it stands there, in reading order and"
            " with its line breaks. Mark what cannot be read with [?]. Add nothing of your own.",
            "请写出图片中的全部文字：一字不差，按阅读顺序，保留换行。"
            "认不出的用 [?] 标出。不要添加其他内容。",
        ),
        temperature=0.0,
        max_tokens=2048,
    ),
    Task(
        "chart",
        Words("Chart to data", "图表转数据"),
        Words(
            "Read this chart: its title, its kind (bar, line, pie, ...), the unit of its values and"
            " every series with all its points. Estimate values that are not printed from the axis,"
            ' and begin those with "~". What the chart does not have is an empty text.',
            "请读取这张图表：标题（title）、类型（kind，如柱状图、折线图、饼图）、数值单位（unit），"
            "以及每个系列（series）的全部数据点。没有标出的数值按坐标轴估计，并以“~”开头。图上没有的填空字符串。",
        ),
        temperature=0.1,
        max_tokens=2048,
        schema=CHART,
    ),
    Task(
        "closer",
        Words("Look closer at one thing", "重点识别"),
        Words(
            "Look only for $subject in this picture. For each that you find: what it looks like,"
            " where it is and how large, and what is next to it. If there is none, say so.",
            "请只关注图片中的$subject。每找到一处，就说明：外观、位置和大小、旁边有什么。如果没有，请直说。",
        ),
        temperature=0.2,
        max_tokens=1024,
        blanks={"subject": Words("the main thing", "主要物体")},
    ),
    Task(
        "steps",
        Words("Analyse in three steps", "三步分析"),
        Words(
            "First step: describe this picture as a whole, in three sentences.",
            "第一步：用三句话概括这张图片的整体内容。",
        ),
        temperature=0.3,
        max_tokens=1024,
        then=(
            Words(
                "Second step: list the people and things in it, each with its place.",
                "第二步：列出其中的人物和物体，以及各自的位置。",
            ),
            Words(
                "Third step: from your two answers, explain how they relate to each other and what"
                " story or situation the picture shows. Correct what you now see differently.",
                "第三步：根据前两步的回答，说明它们之间的关系，以及图片表现的场景或故事。如有看错之处，请更正。",
            ),
        ),
    ),
)
TASKS: Mapping[str, Task] = {one.name: one for one in _ALL}
"""Every task by its name."""
