"""The same question about many pictures: ``python -m webui.batch``, which ``launch batch`` is."""
