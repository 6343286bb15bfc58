"""For programs that ask the model: pictures made ready for the API, and ready-made tasks.

    from webui.client import image_part, task

Needs nothing but Pillow, and opens no connection: the ``openai`` package, or any other HTTP client,
sends what is made here.
"""

from webui.client.images import LONGEST_SIDE, PictureError, data_url, image_part, jpeg
from webui.client.tasks import NOT_FOUND, TASKS, Language, Task, Words, task

__all__ = [
    "LONGEST_SIDE",
    "NOT_FOUND",
    "TASKS",
    "Language",
    "PictureError",
    "Task",
    "Words",
    "data_url",
    "image_part",
    "jpeg",
    "task",
]
