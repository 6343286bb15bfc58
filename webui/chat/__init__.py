"""The page: layout in page.py, its behaviour in session.py, talk and pictures without gradio."""
