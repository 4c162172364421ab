"""Evaluation of checkpoints: `tasks` lists the tasks and carries them out, `commands` is their command line.

Importing this package needs no torch.
"""
