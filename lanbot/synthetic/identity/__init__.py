"""Data that teach a bot who it is: conversations made from a recipe's [identity].

offline.py    makes them of written questions and answers, without a network
texts.py      the questions and answers: topics.txt, dialogues.txt, jobs.txt, languages.txt
slots.py      what fills the slots of the texts
voices.py     how users type, and manners of the bot

endpoint.py   has a model at an endpoint write them: the run, resumed and saved row by row
client.py     requests: retries, budget
prompts.py    what is asked for, drawn from prompts.toml
drafts.py     the model's JSON as a conversation with executed calls
checks.py     whether a conversation is fit to train on
variety.py    statistics of a set, near duplicates
"""
