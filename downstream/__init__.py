"""What a checkpoint is worth: `tasks` lists the tasks and carries one out, `commands` are their command line.

Importing this package needs no torch.
"""
