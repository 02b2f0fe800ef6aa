"""Data that teach a bot who it is: conversations made from a recipe's [identity].

offline.py    makes them of templates, without a network
talk.py       what the turns of a conversation share, and what is said around a question
turns.py      one question and its answer, of every kind
work.py       those in which the tools are used
scene.py      what a conversation is about: the slots of the templates
styles.py     how users write
quality.py    how much two conversations have in common, and how varied many are
*.txt         the English (and the greetings of other languages)
"""
