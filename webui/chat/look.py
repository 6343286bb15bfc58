"""What the page looks like: colours, letters, and a few things that gradio leaves to be mended.

Every pair of colours has a contrast of 4.5 or more (WCAG AA), in the light and in the dark.
"""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from webui.client.tasks import Task

# No font is fetched from elsewhere: the page must work without the internet.
FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
MONO_FONTS = ["ui-monospace", "Menlo", "Consolas", "monospace"]

# Share would post a picture to another site, and Clear empties the field alone, where "New
# conversation" clears: both are in the top panel. The gallery's upload button has another button in
# it, and there is one below. Labels of buttons are in the reader's language.
CSS = """
.dark { --color-accent: var(--primary-300); }
#head { align-items: center; gap: 1.5em; }
#head > * { flex: 0 0 auto; width: max-content; min-width: 0; overflow: visible !important; }
#banner { flex-shrink: 1; }
#banner .dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%;
               margin-right: .5em; background: #d97706; }
#banner .dot.good { background: #059669; }
#banner .dot.bad { background: #dc2626; }
#head h1 { margin: 0; }
#more { align-items: center; }
#more > .block { padding: 0; }
progress { accent-color: var(--color-accent); width: 100%; }
#banner progress { width: 20em; max-width: 100%; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(14em, 1fr)); gap: 1em; }
.charts figure { margin: 0; padding: .8em; border-radius: var(--block-radius);
                 background: var(--block-background-fill); }
.charts figcaption { display: flex; justify-content: space-between; }
.charts svg { width: 100%; height: 3em; margin-top: .5em; }
.charts polyline { fill: none; stroke: var(--color-accent); stroke-width: 2;
                   vector-effect: non-scaling-stroke; }
#log textarea { font-family: var(--font-mono); font-size: .8em; white-space: pre; }
#talk .message img { max-height: 260px; width: auto; }
#talk .message:has(.thought-group) { background: none; border: none; box-shadow: none;
                                     padding: 0; }
#talk .thought-group { border: none; padding: 0; margin: 0; background: none; }
#talk .message-row:has(.thought-group) + .message-buttons [aria-label="Copy message"],
#talk .message-row:has(.thought-group) + .message-buttons:not(:has(button ~ button)),
#talk .message-row:has(.component) + .message-buttons { display: none; }
#conversations .wrap { flex-direction: column; max-height: 30vh; overflow-y: auto;
                       flex-wrap: nowrap; }
#conversations label { width: 100%; overflow-wrap: anywhere; }
#talk .top-panel,
#pictures .icon-button-wrapper button:has(> div > button) { display: none; }
#code .cm-line span, #code .cm-gutterElement { color: inherit; }
#code .cm-gutters { color: var(--body-text-color-subdued); }
#logged-out { position: fixed; inset: 0 0 auto; z-index: 100; margin: 0;
              padding: .8em 1.2em; border-radius: 0; background: #7f1d1d; text-align: center; }
#logged-out, #logged-out * { color: white; }
#logged-out a { text-decoration: underline; }
body:not(.logged-out) #logged-out { display: none; }
@media (max-width: 640px) { #talk { height: 60vh !important; } }
"""

# For keyboards and screen readers: the arrow of a fold is a button without a name, inside of one;
# code that is wider than its field cannot be scrolled; pictures of a talk have no names.
SCRIPT = """() => {
  const mend = () => {
    document.querySelectorAll(".thought-group .arrow:not([inert])").forEach((e) => e.inert = true);
    document.querySelectorAll(".image-container > button:not([aria-label])").forEach((e) => {
      const source = e.querySelector("img")?.src;
      if (source) e.ariaLabel = decodeURIComponent(source.split("/").pop());
    });
    document.querySelectorAll('.cm-scroller[tabindex="-1"]').forEach((e) => e.tabIndex = 0);
    // Messages can be picked with a click, and so with the keyboard.
    document.querySelectorAll("#talk .selectable:not([tabindex])").forEach((e) => e.tabIndex = 0);
  };
  let attached = 0;
  const tell = () => {  // of files that have come to the question field, or gone
    const files = [...document.querySelectorAll("#question .thumbnail-wrapper")];
    if (files.length === attached) return;
    attached = files.length;
    const isPdf = files.some((file) => !file.querySelector("img"));
    document.querySelector(isPdf ? "#attached-pdf" : "#attached")?.click();
  };
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mend(); tell(); });
  }).observe(document.body, { childList: true, subtree: true });
  mend();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("#talk .selectable")) event.target.click();
  });
  // The page asks for something every few seconds, and so notices both.
  const fetch = window.fetch;
  window.fetch = async (...request) => {
    const answer = await fetch(...request);
    const out = document.body.classList.contains("logged-out");
    if (answer.status === 401) document.body.classList.add("logged-out");
    else if (out && answer.ok) {
      document.body.classList.remove("logged-out");
      document.querySelector("#settle").click();
    }
    return answer;
  };
  document.querySelector("#logged-out").role = "alert";
}"""

# For the rules of blanks_css.
NOTE_TASK = "(name) => { document.body.dataset.task = name ?? ''; }"

# For the keyboard: the button that was pressed has gone.
FOCUS_TALK = """() => { document.querySelector("#talk .selectable")?.focus(); }"""

# Have the browser save a file that is ready.
SAVE = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""


def blanks_css(tasks: Mapping[str, Task]) -> str:
    """Of the fields for what tasks leave open, show those of the task that is chosen."""
    shown = [
        f'body[data-task="{name}"] #blank-{blank}'
        for name, task in tasks.items()
        for blank in task.blanks
    ]
    return f"[id^=blank-] {{ display: none; }} {', '.join(shown)} {{ display: block; }}"


def build_theme() -> gr.themes.Base:
    """Calm: one colour, for what can be done or is chosen."""
    return gr.themes.Soft(primary_hue="teal", font=FONTS, font_mono=MONO_FONTS).set(
        background_fill_primary="*neutral_50",  # as Soft has it; set() forgets
        block_label_background_fill="*neutral_100",
        block_label_background_fill_dark="*neutral_800",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_padding="0",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
        checkbox_label_text_color_selected_dark="white",
        color_accent="*primary_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
        slider_color="*primary_700",
    )
