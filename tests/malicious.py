"""Files that run code when they are loaded carelessly."""

import os
import pickle

import torch


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def write_malicious(path, victim, how):
    content = {"iter": 9, "epoch": 0, "params": {"weight": torch.ones(2, 2)}, "extra": Malicious(victim)}
    if how == "torch":
        torch.save(content, path)
    elif how == "old torch":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        with open(path, "wb") as file:
            pickle.dump(Malicious(victim), file, protocol=2)
