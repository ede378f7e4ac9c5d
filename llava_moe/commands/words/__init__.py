"""The words of each command, one file per command: checked here, then handed to the command.

No file here loads torch, transformers or datasets at its top, so that a typing mistake is answered within a second. The
command itself is imported inside a function, after its words are known to be valid.
"""
