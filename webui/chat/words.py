"""What the page says, in English and in Chinese."""

from __future__ import annotations

import re
from collections.abc import Mapping

from webui.client.tasks import Language, Task, Words
from webui.pictures import PictureError

TEXTS: Mapping[str, Words] = {
    "pictures": Words("Pictures", "图片"),
    "cost": Words("{count} × picture, {tokens} tokens", "{count} 张图片，共 {tokens} 个 token"),
    "task": Words("Task", "任务"),
    "task_info": Words("Puts a ready-made question below", "在下方填入现成的问题"),
    "task_none": Words("A question of your own", "自由提问"),
    "blank_product": Words("Product", "商品名称"),
    "blank_category": Words("Category", "商品类别"),
    "blank_grade": Words("Grade", "年级"),
    "blank_subject": Words("What to look for", "重点关注"),
    "settings": Words("Settings", "设置"),
    "thinking": Words("Thinking", "思考"),
    "thinking_off": Words("off", "关闭"),
    "thinking_low": Words("short", "简短"),
    "thinking_high": Words("long", "深入"),
    "thinking_auto": Words("standard", "标准"),
    "own_sampling": Words(
        "Temperature and top-p as the model's maker has them", "使用模型自带的温度和 Top-p"
    ),
    "temperature": Words("Temperature", "温度"),
    "top_p": Words("Top-p", "Top-p"),
    "answer_tokens": Words("Answer, at most (tokens)", "回答上限（token）"),
    "system": Words("System prompt", "系统提示词"),
    "reset": Words("Reset the settings", "恢复默认设置"),
    "new": Words("New conversation", "新对话"),
    "history": Words("Conversations", "对话记录"),
    "search": Words("Search", "搜索"),
    "rename": Words("New title, then Enter", "输入新标题，按回车"),
    "delete": Words("Delete this conversation", "删除这段对话"),
    "delete_turn": Words("Delete question {number} and its answer", "删除第 {number} 个问题和回答"),
    "save_json": Words("Save as JSON", "保存为 JSON"),
    "save_markdown": Words("Save as Markdown", "保存为 Markdown"),
    "open_file": Words("Open a saved one", "打开已保存的对话"),
    "nothing_to_save": Words("There is nothing to save yet.", "还没有可保存的内容。"),
    "you": Words("You", "我"),
    "add": Words("Add pictures or a PDF", "添加图片或 PDF"),
    "pages": Words("Its pages, like 1-3, 8", "页码，例如 1-3, 8"),
    "pdf_left_out": Words(
        "{added} pages added. {left} more do not fit: ask about them in another question.",
        "已添加 {added} 页；还有 {left} 页放不下，请在另一个问题中提问。",
    ),
    "earlier": Words("◀ Earlier", "◀ 前移"),
    "later": Words("Later ▶", "后移 ▶"),
    "placeholder": Words("Add pictures and ask about them.", "添加图片，然后提问。"),
    "ask": Words("Ask about the pictures …", "就图片提问……"),
    "show_code": Words("Show the code", "查看代码"),
    "result": Words("As a table", "表格"),
    "csv": Words("CSV", "CSV"),
    "json": Words("JSON", "JSON"),
    "thought": Words("Thinking", "思考中"),
    "thought_for": Words("Thought for {seconds:.1f} s", "思考了 {seconds:.1f} 秒"),
    "first_token": Words("{seconds:.2f} s to the first token", "首个 token {seconds:.2f} 秒"),
    "speed": Words("{speed:.0f} tokens/s", "{speed:.0f} token/秒"),
    "tokens": Words("{prompt} + {completion} tokens", "{prompt} + {completion} 个 token"),
    "tab_chat": Words("Chat", "对话"),
    "tab_batch": Words("Batch", "批量"),
    "batch_files": Words("Pictures, or a zip file of them", "图片，或图片的 zip 压缩包"),
    "batch_folder": Words("Or a folder on the box", "或服务器上的文件夹"),
    "batch_own": Words("the pictures above", "使用上面的图片"),
    "batch_words": Words("The question about each picture", "对每张图片的提问"),
    "batch_at_once": Words("At the same time", "同时处理数"),
    "batch_start": Words("Begin", "开始"),
    "batch_stop": Words("Stop", "停止"),
    "batch_go_on": Words("Go on; failures again", "继续（重试失败项）"),
    "batch_results": Words("Results", "结果"),
    "batch_csv": Words("Save as CSV", "保存为 CSV"),
    "batch_jsonl": Words("Save as JSONL", "保存为 JSONL"),
    "batch_file": Words("File", "文件"),
    "batch_answer": Words("Answer", "回答"),
    "batch_error": Words("Error", "错误"),
    "batch_progress": Words(
        "{done} of {total} answered, {failed} failed", "已完成 {done}/{total}，失败 {failed}"
    ),
    "batch_left": Words(", about {minutes} min left", "，约剩 {minutes} 分钟"),
    "batch_need": Words(
        "Choose pictures, and say what to ask about each.", "请选择图片，并填写对每张图片的提问。"
    ),
    "batch_problem": Words("The batch cannot go on: {why}", "批量任务无法继续：{why}"),
    "batch_no_cookie": Words(
        "A batch needs a browser that keeps cookies.", "批量任务需要浏览器允许 Cookie。"
    ),
    "tab_status": Words("Status", "状态"),
    "answering": Words("Requests here", "本网关的请求"),
    "running": Words("At work in the engine", "引擎处理中"),
    "waiting": Words("Waiting in the engine", "引擎排队中"),
    "kv_used": Words("KV cache", "KV 缓存"),
    "tokens_per_s": Words("Tokens a second", "每秒 token"),
    "first_token_s": Words("To the first token", "首个 token"),
    "gpu_used": Words("GPU memory", "显存"),
    "fix": Words("What to do: {fix}", "处理办法：{fix}"),
    "restart_engine": Words("Restart the engine", "重启引擎"),
    "restart_page": Words("Restart the WebUI", "重启 WebUI"),
    "restarting": Words("It is being restarted.", "正在重启。"),
    "log": Words("Log", "日志"),
    "log_engine": Words("Engine", "引擎"),
    "log_page": Words("WebUI", "网页服务"),
    "admins_only": Words(
        "Logs and restarts are for those who log in with a key of `launch keys add NAME --admin`.",
        "使用 `launch keys add NAME --admin` 创建的密钥登录后，可查看日志和重启服务。",
    ),
    "no_control": Words("supervisord does not do that: {why}", "supervisord 未能执行：{why}"),
    "logged_out": Words(
        "Your key is not known any more. What you have typed stays here: "
        '<a href="./" target="_blank">log in again in a new tab</a>, then go on.',
        "您的密钥已失效。已输入的内容会保留："
        '<a href="./" target="_blank">在新标签页重新登录</a>后即可继续。',
    ),
    "asking": Words("Asking the engine …", "正在查询模型状态……"),
    "ready": Words("{model} is ready", "{model} 已就绪"),
    "not_ready": Words("The model is not ready yet: {why}", "模型尚未就绪：{why}"),
    "kept": Words("What had come is kept.", "已收到的内容已保留。"),
    "no_answer": Words("The model does not answer just now.", "模型暂时没有响应。"),
    "refused": Words("The model refused: {why}", "模型拒绝了请求：{why}"),
    "attach": Words(
        "Attach the picture itself, not its address.", "请直接添加图片文件，不要填写网址。"
    ),
    "earlier_turns": Words("Show the {count} questions before", "显示之前的 {count} 个问题"),
    "go_on": Words("Continue this answer", "继续这个回答"),
    "gone": Words(
        "There is no such turn any more. Reload the page.", "找不到这一轮对话，请刷新页面。"
    ),
}

# Of the API's errors, by their code. Those that are not here are told in its own words.
ERRORS: Mapping[str, Words] = {
    "engine_restarted": Words(
        "The engine ended while it worked on this. Ask again.",
        "模型在回答时中断了，请重新提问。",
    ),
    "upstream_stalled": Words(
        "The engine has been silent for too long. Ask again.",
        "模型长时间没有响应，请重新提问。",
    ),
    "shutting_down": Words(
        "The service is being stopped or restarted. Ask again in a few seconds.",
        "服务正在停止或重启，请几秒后重新提问。",
    ),
    "overloaded": Words(
        "Too many questions are being answered. Ask again in a few seconds.",
        "当前提问太多，请几秒后再试。",
    ),
    "rate_limit_exceeded": Words(
        "Your key has used up its share of this minute. Ask again in a minute.",
        "您的密钥已用完本分钟的额度，请一分钟后再试。",
    ),
    "invalid_api_key": Words(
        "Your key is not known any more. Reload the page and log in again.",
        "您的密钥已失效，请刷新页面重新登录。",
    ),
    "image_gone": Words(
        "A picture of this talk is no longer there. Attach it again in a new conversation.",
        "本对话中有图片已被删除，请在新对话中重新添加。",
    ),
}

# Of conversations that cannot be kept or opened.
HISTORY: Mapping[str, Words] = {
    "history_gone": Words("This conversation is no longer there.", "这段对话已不存在。"),
    "history_full": Words(
        "This conversation is not kept: your room for conversations is full. Delete old ones.",
        "对话没有保存：您的保存空间已满，请删除旧的对话。",
    ),
    "history_disk": Words(
        "This conversation is not kept: the disk is full. Tell whoever runs this service.",
        "对话没有保存：磁盘空间不足，请告知服务的管理员。",
    ),
    "history_broken": Words(
        "Conversations cannot be kept or opened just now. Tell whoever runs this service.",
        "暂时无法保存或打开对话，请告知服务的管理员。",
    ),
    "history_newer": Words(
        "Conversations were kept by a newer version of this service.",
        "对话由更新版本的服务保存，本版本无法打开。",
    ),
}

# Of files that are opened as conversations.
FILES: Mapping[str, Words] = {
    "file_format": Words(
        "This is no conversation that was saved here as JSON. Nothing was opened.",
        "这不是在本页面保存的 JSON 对话文件，没有打开任何内容。",
    ),
    "file_newer": Words(
        "This conversation was saved by a newer version of this page. Nothing was opened.",
        "这段对话由更新版本的页面保存，本版本无法打开。",
    ),
    "file_picture": Words(
        "A picture in this file cannot be read. Nothing was opened.",
        "文件中有图片无法读取，没有打开任何内容。",
    ),
}

# Of PDFs whose pages cannot be shown.
PDFS: Mapping[str, Words] = {
    "pdf_broken": Words("This is no PDF, or it is damaged.", "这不是 PDF 文件，或文件已损坏。"),
    "pdf_locked": Words(
        "This PDF needs a password. Save it without one first.",
        "该 PDF 有密码保护，请先另存为无密码的文件。",
    ),
    "pdf_pages": Words(
        "There are no such pages. Write them like 1-3, 8, or nothing for all.",
        "没有这些页。请按 1-3, 8 的格式填写；留空表示全部。",
    ),
    "pdf_slow": Words(
        "This PDF takes too long to read. Choose fewer pages.",
        "读取该 PDF 用时过长，请减少页数。",
    ),
}

# Of pictures that cannot be used, by the error's code; which one and why stands behind.
PICTURES: Mapping[str, str] = {
    "image_unreadable": "无法读取图片",
    "image_dimensions": "图片尺寸不合适",
    "image_format": "不支持这种图片格式",
}

# Of the engine's phases. Its own message, which has the details, stands behind.
PHASES: Mapping[str, str] = {
    "waiting": "等待中",
    "starting": "正在启动",
    "loading": "正在加载模型",
    "warming up": "正在预热",
    "opening the port": "即将就绪",
    "stalled": "没有进展",
    "stopping": "正在停止",
    "stopped": "已停止",
    "failed": "启动失败",
    "down": "未运行",
    "other model": "运行的是另一个模型",
}

_PREFERENCE = re.compile(r"\s*([A-Za-z]{1,8})[\w-]*\s*(?:;\s*q=([0-9.]{1,5}))?\s*")


def language_of(accepted: str) -> Language:
    """The language of a browser, by its Accept-Language header; English where it says nothing."""
    best: tuple[float, Language] = (0.0, "en")
    for item in accepted[:1000].split(","):
        found = _PREFERENCE.fullmatch(item)
        if found is None or found[1].lower() not in {"en", "zh"}:
            continue
        try:
            weight = float(found[2] or 1)
        except ValueError:
            continue
        if weight > best[0]:
            best = weight, "zh" if found[1].lower() == "zh" else "en"
    return best[1]


def text(key: str, language: Language, **values: object) -> str:
    """A text with its values."""
    return TEXTS[key].of(language).format(**values)


def picture_problem(error: PictureError, language: Language) -> str:
    """Which picture cannot be used, and why."""
    words = PICTURES.get(error.code)
    return f"{words}（{error}）" if language == "zh" and words else str(error)


def translations(tasks: Mapping[str, Task], notice: Words) -> dict[str, dict[str, str]]:
    """For gradio, which shows a text in the browser's language. A task's title is there as
    ``task_NAME``, what stands in a blank by itself as ``usual_NAME``, and what the operator has to
    say as ``notice``."""
    titles = {f"task_{name}": task.title for name, task in tasks.items()}
    usual = {
        f"usual_{blank}": words for task in tasks.values() for blank, words in task.blanks.items()
    }
    words = {**TEXTS, **titles, **usual, "notice": notice}
    english = {key: both.en for key, both in words.items()}
    chinese = {key: both.zh for key, both in words.items()}
    return {"en": english, "zh": chinese, "zh-CN": chinese, "zh-TW": chinese}
