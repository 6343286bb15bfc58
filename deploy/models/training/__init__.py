"""How the demo checkpoint is made: pictures, talk about them, a small StepVL, and its training.

vocabulary.py  words and their tokens        scenes.py    pictures whose content is known
talk.py        questions and answers         network.py   the architecture in plain torch
train.py       the training loop             checkpoint.py  the folder that vLLM loads
"""
