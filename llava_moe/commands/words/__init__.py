"""The words of each command, a file a command: judged here before anything heavy is loaded, then handed to the command.

A typing mistake is answered within a second because of this: no file here loads torch, transformers or datasets at its
top. The import of a command, inside a function, is the door that its words have passed.
"""
