"""ECG-Chat's 45,000 dialogues on MIMIC-IV-ECG (arXiv 2408.08849): corpus ``ecg-instruct-45k``.

Dialogues of several turns, of ``ecg_instruct_45k.json``; task ``ecg-instruct``. Items are those of ``pretrain_mimic``.
"""

from __future__ import annotations

from functools import partial

from ecglm.conversations.instruction import corpus_mapper
from ecglm.conversations.pretrain_mimic import read_study_item
from ecglm.registry import register

VERSION = 1
CORPUS = "ecg-instruct-45k"
TASK = "ecg-instruct"
FILES = ("ecg_instruct_45k.json", "data/ecg_instruct_45k.json", "llava/playground/data/ecg_instruct_45k.json")

map_ecg_instruct_45k = register("conversations", "ecg-instruct-45k")(
    corpus_mapper(CORPUS, FILES, partial(read_study_item, task=TASK), __name__, give_up_after=1)
)
