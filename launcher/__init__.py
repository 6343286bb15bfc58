"""Reads one YAML, decides, renders, starts. Imports neither vllm nor gradio nor webui."""
